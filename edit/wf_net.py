"""WF-Net: unlearn every class in one run by masks on the layers, one row a class.

Poppi, Sarto, Cornia, Baraldi, Cucchiara: Multi-Class Unlearning for Image Classification via Weight
Filtering, IEEE Intelligent Systems 2024 (arXiv 2304.02049). The weights stay; `sigmoid(alpha)`
scales the output channels, and the row of alpha is chosen sample by sample.

Departures from the paper, both measured: the reciprocal is floored, `1 / (L_f + 0.1)`, so that an
image that is recognised with certainty does not outweigh all others; and alpha is trained by Adam
with a one-cycle rate. `PAPER` holds the paper's own setting.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.gates import Gated, gateable
from bandstop.edit.images import ImageSet
from bandstop.edit.method import Splits
from bandstop.edit.moments import editable_layers
from bandstop.edit.progress import progress
from bandstop.edit.request import ForgetRequest

Alphas = Mapping[str, Tensor]  # parameter name -> (num_classes, out_channels)


@dataclass(frozen=True, slots=True)
class WFNet:
    """Hyper-parameters of WF-Net.

    Attributes:
        steps: optimiser steps at most.
        batch: training images a step; half are forgotten, half retained.
        chi: copies of each retained image, each under its own random row (label expansion).
        lambda0: weight of the retain loss.
        lambda1: weight of the forget term; the paper has 10 for CNNs.
        lambda2: weight of the mean of `1 - mask`, which keeps masks open.
        floor: is added to each forget loss before its reciprocal is taken; the paper has none.
        optimizer: adam, or plain sgd as in the paper.
        lr: of alpha; the paper has 100, which only suits sgd.
        schedule: one-cycle, or constant as in the paper.
        bound: alpha is clamped to [-bound, bound] after each step and starts at +bound.
        validate_every: steps between validations; None: five an epoch, as in the paper.
        patience: stop after so many validations without a better loss; the paper has 10.
        seed: of batches and rows.
    """

    name: ClassVar[str] = "wf-net"
    steps: int = 300
    batch: int = 128
    chi: int = 3
    lambda0: float = 1.0
    lambda1: float = 1.0
    lambda2: float = 1.0
    floor: float = 0.1
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 0.1
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    bound: float = 3.0
    validate_every: int | None = 30
    patience: int | None = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with, all at once."""
        smallest = {"steps": 1, "batch": 2, "chi": 1, "validate_every": 1, "patience": 1}
        positive = ("lr", "bound")
        values = asdict(self)
        wrong = [
            f"{name} must be {least} or more, got {values[name]}"
            for name, least in smallest.items()
            if values[name] is not None and values[name] < least
        ]
        wrong += [
            f"{name} must be a number {'above' if name in positive else 'from'} 0, got {value}"
            for name, value in values.items()
            if isinstance(value, float)
            and not (0 <= value < math.inf and (value > 0 or name not in positive))
        ]
        if wrong:
            raise InputError("wf-net: " + "; ".join(wrong))

    def __call__(self, model: Classifier, request: ForgetRequest, data: Splits) -> GateEdit:
        """Return masks of which row c forgets class c; `model` is left as it was.

        Raises:
            InputError: the request is not for all classes, or there are no images.
            DivergedError: the loss became NaN or infinite.
        """
        _check(model, request, data)
        best = self._train(model, Gated(model.network, tuple(gateable(model.network))), data)
        masks = {name: torch.sigmoid(alpha) for name, alpha in best.alphas.items()}
        return GateEdit(masks, {"best_step": best.step, "validation_losses": best.losses})

    def _train(self, model: Classifier, gated: Gated, data: Splits) -> "Best":
        generator = torch.Generator().manual_seed(self.seed)
        alphas = initial_alphas(model, self.bound)
        optimizer = _optimizer(self, list(alphas.values()))
        schedule = _schedule(self, optimizer)
        best = Best()
        per_epoch = -(-len(data.forget) // self.batch)
        stream = _forever(data.forget, self.batch, generator)
        for step in progress(range(1, self.steps + 1), "wf-net"):
            loss = objective(self, model, gated, alphas, *next(stream), generator)
            if not bool(torch.isfinite(loss)):
                raise DivergedError(f"wf-net: the loss is {loss.item()} at step {step}; lower lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clamp_(alphas, self.bound)
            if is_check(step, per_epoch, self.validate_every) or step == self.steps:
                best.see_(step, alphas, self._validation_loss(model, gated, alphas, data.validate))
                if best.exhausted(self.patience):
                    break
        return best

    def _validation_loss(
        self, model: Classifier, gated: Gated, alphas: Alphas, images: ImageSet
    ) -> float:
        """Return the objective over `images`, always with the same rows."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            parts = [
                (objective(self, model, gated, alphas, image, label, generator).item(), len(label))
                for image, label in images.batches(4 * self.batch, generator)
                if len(label) > 1
            ]
        return sum(loss * n for loss, n in parts) / sum(n for _, n in parts)


PAPER = WFNet(
    steps=100_000,
    lambda1=10.0,
    floor=1e-8,
    optimizer="sgd",
    lr=100.0,
    schedule="constant",
    validate_every=None,
    patience=10,
)


def objective(
    setting: WFNet,
    model: Classifier,
    gated: Gated,
    alphas: Alphas,
    image: Tensor,
    label: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return `l0 mean(L_r) + l1 mean(1 / (L_f + floor)) + l2 mean(1 - mask)` (paper, eq. 2 to 4).

    Args:
        setting: the weights and chi.
        model: the classifier whose normalisation is applied.
        gated: its network under masks.
        alphas: the parameters that are trained.
        image: (n, c, h, w) in [0, 1].
        label: (n,).
        generator: draws the rows of the retained images.
    """
    image, label = image.to(model.mean), label.to(model.mean.device)
    image, row, label, forgotten = expand(image, label, setting.chi, model.num_classes, generator)
    masks = {name: torch.sigmoid(F.embedding(row, alpha)) for name, alpha in alphas.items()}
    logits = gated((image - model.mean) / model.std, masks)
    # float64: in float32 the loss of a certain image is exactly 0 and has no gradient
    losses = F.cross_entropy(logits.double(), label, reduction="none")
    retain, forget = losses[forgotten:], losses[:forgotten]
    return (
        setting.lambda0 * retain.mean()
        + setting.lambda1 * (1 / (forget + setting.floor)).mean()
        + setting.lambda2 * closed(alphas)
    )


def expand(
    image: Tensor, label: Tensor, chi: int, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return images, rows, labels and the number of forgotten images, which come first.

    The first half of the batch is forgotten, each under the row of its own class. The other half is
    retained: `chi` copies of each, every copy under a random row of another class.
    """
    half = len(label) // 2
    kept = label[half:].repeat(chi)
    other = torch.randint(1, num_classes, (len(kept),), generator=generator).to(label.device)
    row = torch.cat([label[:half], (kept + other) % num_classes])
    images = torch.cat([image[:half], image[half:].repeat(chi, 1, 1, 1)])
    return images, row, torch.cat([label[:half], kept]), half


def closed(alphas: Alphas) -> Tensor:
    """Return the mean of `1 - sigmoid(alpha)` over all masks of all rows and layers."""
    flat = torch.cat([alpha.flatten() for alpha in alphas.values()])
    return (1 - torch.sigmoid(flat)).mean()


def initial_alphas(model: Classifier, bound: float) -> dict[str, Tensor]:
    """Return alphas at `bound` for all that can be gated, with gradients."""
    return {
        name: torch.full(
            (model.num_classes, channels), bound, device=model.mean.device, requires_grad=True
        )
        for name, channels in gateable(model.network).items()
    }


def clamp_(alphas: Alphas, bound: float) -> None:
    """Clamp every alpha to [-bound, bound], in place."""
    with torch.no_grad():
        for alpha in alphas.values():
            alpha.clamp_(-bound, bound)


def is_check(step: int, per_epoch: int, every: int | None) -> bool:
    """Return whether validation follows `step` (from 1): each `every`, or five times an epoch."""
    if every is not None:
        return step % every == 0
    within = (step - 1) % per_epoch + 1
    return within in {round(j * per_epoch / 5) for j in range(1, 6)}


@dataclass(slots=True)
class Best:
    """The best alphas so far by validation loss, and whether patience has run out."""

    alphas: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    step: int = 0

    def see_(self, step: int, alphas: Alphas, loss: float) -> None:
        """Keep a copy of `alphas` when `loss` is the lowest yet."""
        if not self.losses or loss < min(self.losses):
            self.alphas = {name: alpha.detach().clone() for name, alpha in alphas.items()}
            self.step = step
        self.losses.append(loss)

    def exhausted(self, patience: int | None) -> bool:
        """Return whether the last `patience` validations brought nothing better."""
        if patience is None or not self.losses:
            return False
        return len(self.losses) - 1 - self.losses.index(min(self.losses)) >= patience


def _check(model: Classifier, request: ForgetRequest, data: Splits) -> None:
    misfits = []
    if request.classes != tuple(range(model.num_classes)):
        misfits.append("it unlearns every class in one run; name no class")
    if len(data.forget) < 2 or len(data.validate) < 2:
        misfits.append("it needs training and validation images, two of each or more")
    layers = list(editable_layers(model.network).values())
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in layers)
    if 2 * convolutions < len(layers):
        misfits.append(
            f"it masks convolutions, and {model.arch.name} has {convolutions} in {len(layers)} "
            "layers; Transformers are not supported yet"
        )
    if misfits:
        raise InputError("wf-net: " + "; ".join(misfits))


def _forever(
    images: ImageSet, batch: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches without end; a last batch too small to halve is left out."""
    while True:
        yield from (pair for pair in images.batches(batch, generator) if len(pair[1]) > 1)


def _optimizer(setting: WFNet, alphas: list[Tensor]) -> torch.optim.Optimizer:
    if setting.optimizer == "adam":
        return torch.optim.Adam(alphas, lr=setting.lr)
    return torch.optim.SGD(alphas, lr=setting.lr)


def _schedule(
    setting: WFNet, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    if setting.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, setting.lr, total_steps=setting.steps, cycle_momentum=False
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
