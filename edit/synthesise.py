"""Training images made from the frozen network alone, where no image at all is at hand.

Noise is changed until the network recognises the wanted class in it and until BatchNorm sees the
statistics that it remembers from its training: DeepInversion (Yin et al.: Dreaming to Distill,
CVPR 2020, arXiv 1912.08795).

Departures: statistics are compared in units of each channel's remembered deviation, so that no
layer outweighs another; pixels stay in [0, 1]; the rate falls along a cosine. It converges in some
hundred steps instead of thousands.
"""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.accuracy import accuracy, logits
from bandstop.edit.batchnorm import BatchNorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.progress import progress
from bandstop.edit.substitute import Substitute, substitute

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Synthesis:
    """How images are made.

    Attributes:
        per_class: images of each class.
        steps: of Adam on the pixels, a batch.
        batch: images made together at least, classes mixed; their statistics are compared.
        lr: of pixels in [0, 1], at its highest.
        statistics: weight of the gap to BatchNorm's statistics.
        variation: weight of the mean square of differences between neighbouring pixels.
        norm: weight of the mean square of normalised pixels.
        smooth: side of the blocks that the first noise is constant on; 1 is pixel by pixel.
        shift: pixels that images are rolled by at most, at each step; None: a side's sixteenth.
        flip: whether images are mirrored at random; None: only those in colour.
        seed: of noise, shifts and flips.
    """

    per_class: int = 100
    steps: int = 100
    batch: int = 250
    lr: float = 0.1
    statistics: float = 5.0
    variation: float = 0.1
    norm: float = 0.0
    smooth: int = 2
    shift: int | None = None
    flip: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be made with, all at once."""
        wanted = {
            "per_class >= 1": self.per_class >= 1,
            "steps >= 1": self.steps >= 1,
            "batch >= 2": self.batch >= 2,  # one image has no statistics
            "lr > 0": 0 < self.lr < math.inf,
            "weights >= 0": all(
                0 <= weight < math.inf for weight in (self.statistics, self.variation, self.norm)
            ),
            "smooth >= 1": self.smooth >= 1,
            "shift >= 0": self.shift is None or self.shift >= 0,
        }
        missed = [rule for rule, kept in wanted.items() if not kept]
        if missed:
            raise InputError(f"synthesis: expected {', '.join(missed)}, got {asdict(self)}")


def synthesised_data(model: Classifier, setting: Synthesis) -> DataSplits:
    """Return training and validation sets made from `model` alone; the test set is empty.

    Raises:
        InputError: no image of some class came out.
        DivergedError: the loss became NaN or infinite.
    """
    balance = Substitute(per_class=setting.per_class, seed=setting.seed)
    return substitute(model, synthesise(model, setting), balance)


def synthesise(model: Classifier, setting: Synthesis) -> ImageSet:
    """Return `per_class` images of each class, with the class that each was made for.

    Give the network as it was trained: BatchNorm that is folded has no statistics left to match.
    `model` is left as it was.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    classes = model.num_classes
    rounds = [torch.randperm(classes, generator=generator) for _ in range(setting.per_class)]
    labels = torch.cat(rounds)  # neighbouring classes are alike, so mix them
    batches = labels.tensor_split(max(1, len(labels) // setting.batch))
    frozen = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    with remembered_gaps(frozen) as gaps:
        if not norms(frozen):
            log.warning("synthesis: %s has no BatchNorm to take statistics from", model.arch.name)
        steps = iter(progress(range(len(batches) * setting.steps), "synthesis"))
        made = [_batch(frozen, part, setting, gaps, steps, generator) for part in batches]
    images = ImageSet(torch.cat(made), torch.arange(len(labels)), labels)
    share = accuracy(logits(frozen, images).argmax(1), labels)
    if share < 0.9:
        log.warning("synthesis: only %.0f %% came out as wanted; raise steps", 100 * share)
    return images


def norms(model: Classifier) -> list[nn.Module]:
    """Return every BatchNorm of `model` that remembers statistics."""
    return [
        module
        for module in model.network.modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    ]


@contextmanager
def remembered_gaps(model: Classifier) -> Iterator[list[Tensor]]:
    """Yield a list that each pass through `model` extends by one gap a BatchNorm; empty it first.

    A gap is the mean over channels of the squared differences of mean and deviation between the
    batch and what the layer remembers, in units of the remembered deviation.
    """
    gaps: list[Tensor] = []

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        mean, var = module.running_mean, module.running_var
        assert isinstance(mean, Tensor) and isinstance(var, Tensor)  # noqa: PT018  # see norms
        dims = [d for d in range(x.ndim) if d != 1]
        unit = (var + 1e-5).sqrt()
        deviation = (x.var(dims) + 1e-5).sqrt()
        gap = ((x.mean(dims) - mean) / unit).square() + (deviation / unit - 1).square()
        gaps.append(gap.mean())

    hooks = [module.register_forward_pre_hook(see) for module in norms(model)]
    try:
        yield gaps
    finally:
        for hook in hooks:
            hook.remove()


def _batch(
    model: Classifier,
    label: Tensor,
    setting: Synthesis,
    gaps: list[Tensor],
    steps: Iterator[int],
    generator: torch.Generator,
) -> Tensor:
    """Return uint8 images (n, c, h, w) of the classes `label`; takes `setting.steps` of `steps`."""
    pixels = _noise(model, len(label), setting.smooth, generator).requires_grad_()
    label = label.to(pixels.device)
    adam = torch.optim.Adam([pixels], lr=setting.lr, betas=(0.5, 0.9))
    for step in range(setting.steps):
        next(steps)
        gaps.clear()
        loss = objective(model, _jittered(pixels, setting, generator), label, setting, gaps)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(f"synthesis: the loss is {loss.item()} at step {step}; lower lr")
        adam.param_groups[0]["lr"] = setting.lr * (1 + math.cos(math.pi * step / setting.steps)) / 2
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    return (pixels.detach() * 255).round().to(torch.uint8).cpu()


def objective(
    model: Classifier, image: Tensor, label: Tensor, setting: Synthesis, gaps: list[Tensor]
) -> Tensor:
    """Return the loss of images (n, c, h, w) in [0, 1]: class, statistics, variation and norm.

    Args:
        model: with the hooks of `remembered_gaps`.
        image: has gradients.
        label: (n,), what is to be seen in them.
        setting: the weights.
        gaps: empty; filled by the hooks.
    """
    x = (image - model.mean) / model.std
    loss = F.cross_entropy(model.network(x), label)
    if gaps:
        loss = loss + setting.statistics * torch.stack(gaps).mean()
    down, across = x[:, :, 1:] - x[:, :, :-1], x[..., 1:] - x[..., :-1]
    variation = down.square().mean() + across.square().mean()
    return loss + setting.variation * variation + setting.norm * x.square().mean()


def _noise(model: Classifier, count: int, smooth: int, generator: torch.Generator) -> Tensor:
    """Return noise (count, c, h, w) around the mean colour, constant on blocks."""
    height, width = model.preprocess.size
    small = (count, model.preprocess.channels, -(-height // smooth), -(-width // smooth))
    blocks = torch.randn(small, generator=generator)
    grid = blocks.repeat_interleave(smooth, 2).repeat_interleave(smooth, 3)[..., :height, :width]
    return (grid.to(model.mean) * model.std + model.mean).clamp(0, 1).contiguous()


def _jittered(image: Tensor, setting: Synthesis, generator: torch.Generator) -> Tensor:
    """Return the batch rolled by one random offset, and mirrored or not."""
    shift = max(1, min(image.shape[2:]) // 16) if setting.shift is None else setting.shift
    dy, dx = torch.randint(-shift, shift + 1, (2,), generator=generator).tolist()
    mirror = bool(torch.rand((), generator=generator) < 0.5)
    image = torch.roll(image, (dy, dx), (2, 3)) if shift else image
    flip = image.shape[1] == 3 if setting.flip is None else setting.flip
    return image.flip(3) if flip and mirror else image
