"""WF-Net: unlearn every class in one run by masks on the layers, one row a class.

Poppi, Sarto, Cornia, Baraldi, Cucchiara: Multi-Class Unlearning for Image Classification via Weight
Filtering, IEEE Intelligent Systems 2024 (arXiv 2304.02049). The weights stay; `sigmoid(alpha)`
scales the output channels, and the row of alpha is chosen sample by sample.

Departures from the paper, all measured (docs/results.md): the reciprocal is floored,
`1 / (L_f + 0.1)`, so that an image that is recognised with certainty does not outweigh all others;
masks start lower where a channel answers to the class more than to others; and alpha is trained by
Adam with a one-cycle rate. `PAPER` holds the paper's own setting.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch

from bandstop.edit.batchnorm import BatchNorm, adapt_, fold_batchnorm, statistics_of
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.gate_check import check_gates
from bandstop.edit.gates import Gated, gateable
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits
from bandstop.edit.progress import progress
from bandstop.edit.request import ForgetRequest
from bandstop.edit.wf_objective import Alphas, objective
from bandstop.edit.wf_start import initial_alphas, lower_
from bandstop.edit.wf_training import (
    Best,
    clamp_,
    forever,
    is_check,
    masks_of,
    optimizer_of,
    schedule_of,
)

_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "optimizer": ("adam", "sgd"),
        "schedule": ("one-cycle", "constant"),
        "gates": ("kernel-bias", "tied"),
        "bn": ("fold", "adapt", "frozen"),
    }
)
_SMALLEST: Mapping[str, int] = MappingProxyType(
    {"steps": 1, "batch": 2, "chi": 1, "set_size": 1, "validate_every": 1, "patience": 1}
)
_ABOVE_ZERO = ("lr", "bound")


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
        bound: alpha is clamped to [-bound, bound] after each step.
        warm: alpha starts at `bound`, less so much a standard deviation by which its channel
            answers more to the class than to others (see wf_start.py); 0 as in the paper.
        validate_every: steps between validations; None: five an epoch, as in the paper.
        patience: stop after so many validations without a better loss; the paper has 10.
        gates: kernel-bias has a mask for each of the two, as in the paper; tied has one for both,
            which serves faster.
        layers: shell patterns on the names of the layers that are masked.
        set_size: above 1, rows are trained together in random sets of up to so many classes, so
            that a request can forget several classes at once.
        bn: fold masks a BatchNorm's shift with the layer; frozen leaves it outside the masks, as if
            the layer before an untouched BatchNorm were masked; adapt lets the statistics follow
            the masked activations, as in a training loop that never says otherwise. The paper
            masks kernels and biases and says nothing of BatchNorm. After adapt the backbone, with
            all masks open, is no longer the original network.
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
    warm: float = 1.0
    validate_every: int | None = 30
    patience: int | None = 10
    gates: Literal["kernel-bias", "tied"] = "kernel-bias"
    layers: tuple[str, ...] = ("*",)
    set_size: int = 1
    bn: Literal["fold", "adapt", "frozen"] = "fold"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with, all at once."""
        values = asdict(self)
        wrong = [
            f"{name} must be {least} or more, got {values[name]}"
            for name, least in _SMALLEST.items()
            if values[name] is not None and values[name] < least
        ]
        wrong += [
            f"{name} must be a number {'above' if name in _ABOVE_ZERO else 'from'} 0, got {value}"
            for name, value in values.items()
            if isinstance(value, float)
            and not (0 <= value < math.inf and (value > 0 or name not in _ABOVE_ZERO))
        ]
        wrong += [
            f"{name} must be {' or '.join(known)}, got {values[name]!r}"
            for name, known in _CHOICES.items()
            if values[name] not in known
        ]
        if isinstance(self.layers, str) or not self.layers or not all(self.layers):
            wrong.append(f"layers must be one pattern or more, got {self.layers!r}")
        if wrong:
            raise InputError("wf-net: " + "; ".join(wrong))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> GateEdit:
        """Return masks of which row c forgets class c; `model` is left as it was.

        Args:
            model: as `prepare` makes it.
            request: of every class.
            data: images of every class.
            journal: where the state is noted, to go on from; None notes nothing.

        Raises:
            InputError: the request is not for all classes, images of a class are missing, or the
                network cannot be masked.
            DivergedError: the loss became NaN or infinite, or never came below its start.
        """
        _check(self, model, request, data)
        names, tied = gateable(model.network, self.layers), self.gates == "tied"
        check_gates(model, names, tied=tied)
        best = self._train(model, Gated(model.network, tuple(names), tied=tied), data)
        found = {
            "start_loss": best.start,
            "best_step": best.step,
            "validation_losses": best.losses,
        }
        return GateEdit(masks_of(best.alphas, names), found, best.statistics)

    def prepare(self, model: Classifier) -> Classifier:
        """Return `model` with BatchNorm folded as `bn` asks for; to adapt, not at all."""
        if model.bn_folded or self.bn == "adapt":
            return model
        return fold_batchnorm(model, shift="apart" if self.bn == "frozen" else "inside")

    def _train(self, model: Classifier, gated: Gated, data: Splits) -> Best:
        generator = torch.Generator().manual_seed(self.seed)
        alphas = initial_alphas(model, self.bound, self.layers, tied=self.gates == "tied")
        if self.warm:
            lower_(alphas, model, data.forget, self.warm, self.seed)
            clamp_(alphas, self.bound)
        optimizer = optimizer_of(alphas, self.optimizer, self.lr)
        schedule = schedule_of(optimizer, self.schedule, self.lr, self.steps)
        best = Best(self._validation_loss(model, gated, alphas, data.validate))
        per_epoch = -(-len(data.forget) // self.batch)
        stream = forever(data.forget, self.batch, generator)
        for step in progress(range(1, self.steps + 1), "wf-net"):
            if self.bn == "adapt":
                adapt_(gated)
            loss = objective(self, model, gated, alphas, *next(stream), generator)
            if not bool(torch.isfinite(loss)):
                raise DivergedError(f"wf-net: the loss is {loss.item()} at step {step}; lower lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clamp_(alphas, self.bound)
            if is_check(step, per_epoch, self.validate_every) or step == self.steps:
                gated.eval()
                held_out = self._validation_loss(model, gated, alphas, data.validate)
                best.see_(step, alphas, held_out, statistics_of(gated.network))
                if best.exhausted(self.patience):
                    break
        best.check()
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
    warm=0.0,
    validate_every=None,
    patience=10,
    bn="frozen",
)


def _check(setting: WFNet, model: Classifier, request: ForgetRequest, data: Splits) -> None:
    misfits = []
    if request.classes != tuple(range(model.num_classes)):
        misfits.append("it unlearns every class in one run; name no class")
    if len(data.forget) < 2 or len(data.validate) < 2:
        misfits.append("it needs training and validation images, two of each or more")
    else:
        there = set(data.forget.labels.unique().tolist())
        missing = [name for c, name in enumerate(model.class_names) if c not in there]
        misfits += [
            f"no training image of {len(missing)} classes ({', '.join(missing[:5])}), whose rows "
            "would forget nothing"
        ] * bool(missing)
    if not 1 <= setting.set_size < model.num_classes:
        misfits.append(f"set_size must be below {model.num_classes}, got {setting.set_size}")
    if not gateable(model.network):
        misfits.append(
            f"it masks convolutions or attention's queries, keys and values, and {model.arch.name} "
            "has none"
        )
    misfits += _folded_otherwise(setting, model)
    if misfits:
        raise InputError("wf-net: " + "; ".join(misfits))


def _folded_otherwise(setting: WFNet, model: Classifier) -> list[str]:
    has_norms = any(isinstance(module, BatchNorm) for module in model.network.modules())
    if has_norms and setting.bn != "adapt":
        return ["the network still has BatchNorm; fold it first"]
    if not has_norms and not model.bn_folded and setting.bn == "adapt":
        return ["bn=adapt needs a network with BatchNorm"]
    wanted: dict[str, object] = {"fold": True, "adapt": False, "frozen": "apart"}
    if model.bn_folded and model.bn_folded != wanted[setting.bn]:
        return [f"bn={setting.bn} needs the original network, got one folded in another way"]
    return []
