"""Targeted adversarial images: pictures a step away that the network takes for another class.

L2UL (Cha et al., arXiv 2301.11578) trains on them, each with its target label, to hold the decision
boundaries where they are. Madry et al., arXiv 1706.06083, projected gradient descent in an L2 ball.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit import team
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import ArtifactError
from bandstop.edit.images import ImageSet
from bandstop.edit.progress import progress
from bandstop.edit.seeds import seeded
from bandstop.edit.storage import canonical_json, replace_file, sha256, state_sha256, tensor_sha256


@dataclass(frozen=True, slots=True)
class Attack:
    """How adversarial images are made; the defaults are L2UL's for CIFAR-10.

    Attributes:
        eps: radius of the ball, in pixel values of [0, 1].
        steps: of the descent.
        rate: length of a step before it is clipped and projected.
        batch: images that are attacked at once, about.
    """

    eps: float = 4.0
    steps: int = 100
    rate: float = 0.1
    batch: int = 256


def frozen(model: Classifier) -> Classifier:
    """Return a copy that computes the same faster: BatchNorm folded, no parameter learns."""
    folded = copy.deepcopy(model) if model.bn_folded else fold_batchnorm(model)
    folded.requires_grad_(False)
    return folded


def descend(model: Classifier, image: Tensor, target: Tensor, start: Tensor, how: Attack) -> Tensor:
    """Return perturbations (n, c, h, w) that move `image` towards being taken for `target`.

    Each step goes `rate` down the normalised gradient of the loss of the target, back into the box
    of pixel values and back into the ball.

    Args:
        model: in evaluation (see `frozen`); no gradient of a parameter is computed.
        image: (n, c, h, w) in [0, 1].
        target: (n,).
        start: first perturbations, within the ball and the box.
        how: the ball and the steps.
    """
    delta = start
    for _ in range(how.steps):
        slope = _slope(model, image + delta, target)
        delta = delta - how.rate * slope / _length(slope).clamp_min(1e-6)
        delta = _into_ball(_into_box(image, delta), how.eps)
    return _into_box(image, delta)


def first_steps(image: Tensor, count: int, eps: float, generator: torch.Generator) -> Tensor:
    """Return `count` random perturbations of one image (c, h, w), on the sphere or inside it."""
    noise = torch.rand((count, *image.shape), generator=generator, dtype=image.dtype)
    return _into_box(image, _into_ball(noise - image, eps))


@dataclass(frozen=True, slots=True)
class Adversaries:
    """Adversarial images with their targets.

    Attributes:
        images: `count` for each instance, instance after instance; pixels rounded to 8 bits.
        fooled: share of them that the network takes for the target.
    """

    images: ImageSet
    fooled: float


def adversaries(
    model: Classifier,
    instances: ImageSet,
    count: int,
    how: Attack,
    *,
    seed: int = 0,
    cache: Path | None = None,
) -> Adversaries:
    """Return `count` adversarial images of each instance, towards random other classes.

    What is drawn for an instance depends on its number and the seed alone. All are kept, whether
    the attack succeeded or not, as in the paper's code.

    Args:
        model: in evaluation; left as it was.
        instances: (k, ...) images with their labels.
        count: of each instance.
        how: the attack.
        seed: of targets and first steps.
        cache: a folder for finished ones, by what they were made from; an interrupted run goes on
            where it was, and another one that asks for some of them finds them.

    Raises:
        ArtifactError: a file in `cache` is corrupt.
    """
    key, model = _key(model, count, how, seed), frozen(model)
    at_once = max(1, how.batch // count)
    starts = range(0, len(instances), at_once)
    made: dict[int, tuple[Tensor, Tensor]] = {}
    mine = starts[team.share(len(starts))]
    for start in progress(mine, "adversarial images"):
        part = instances.take(torch.arange(start, min(start + at_once, len(instances))))
        made[start] = _kept(model, part, count, how, seed, None if cache is None else cache / key)
    pixels, right = _of_team(instances, count, at_once, made)
    targets = torch.cat([_targets(model, instances, i, count, seed) for i in range(len(instances))])
    return Adversaries(
        ImageSet(pixels, torch.arange(len(pixels)), targets), float(right.double().mean())
    )


def _kept(
    model: Classifier, part: ImageSet, count: int, how: Attack, seed: int, folder: Path | None
) -> tuple[Tensor, Tensor]:
    """Return the images of `part`, uint8, and which fool; from `folder` where all are there."""
    files = [] if folder is None else [folder / f"{name}.safetensors" for name in _names(part)]
    if files and all(file.exists() for file in files):
        read = [_read(file, (count, *part.images[part.index[:1]].shape[1:])) for file in files]
        return torch.cat([r[0] for r in read]), torch.cat([r[1] for r in read])
    pixels, right = _attacked(model, part, count, how, seed)
    for i, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        own = slice(i * count, (i + 1) * count)
        content = {"image": pixels[own].contiguous(), "fooled": right[own].contiguous()}
        replace_file(file, safetensors.torch.save(content))
    return pixels, right


def _attacked(
    model: Classifier, part: ImageSet, count: int, how: Attack, seed: int
) -> tuple[Tensor, Tensor]:
    image, _ = next(part.batches(len(part)))
    image = image.to(model.mean.dtype)
    start = torch.cat(
        [
            first_steps(one, count, how.eps, seeded(seed, int(number), 1))
            for one, number in zip(image, part.index, strict=True)
        ]
    ).to(model.mean)
    target = torch.cat([_targets(model, part, i, count, seed) for i in range(len(part))])
    image, target = image.repeat_interleave(count, 0).to(model.mean), target.to(model.mean.device)
    delta = descend(model, image, target, start, how)
    pixels = ((image + delta) * 255).round().clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        answer = model(pixels.to(model.mean) / 255).argmax(1)
    return pixels.cpu(), (answer == target).cpu()


def _targets(model: Classifier, images: ImageSet, i: int, count: int, seed: int) -> Tensor:
    """Return `count` random classes other than the label of image `i`, all equally likely."""
    generator = seeded(seed, int(images.index[i]), 0)
    other = torch.randint(1, model.num_classes, (count,), generator=generator)
    return (images.labels[i] + other) % model.num_classes


def _of_team(
    instances: ImageSet, count: int, at_once: int, made: dict[int, tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the images of all processes, in the order of the instances."""
    shape = tuple(instances.images[instances.index[:1]].shape[1:])
    pixels = torch.zeros((len(instances) * count, *shape), dtype=torch.uint8)
    right = torch.zeros(len(instances) * count, dtype=torch.uint8)
    for start, (own, fooled) in made.items():
        place = slice(start * count, start * count + len(own))
        pixels[place], right[place] = own, fooled.to(torch.uint8)
    return team.summed(pixels), team.summed(right)


def _slope(model: Classifier, x: Tensor, target: Tensor) -> Tensor:
    x = x.requires_grad_()
    loss = F.cross_entropy(model(x), target, reduction="sum")
    slope: Tensor = torch.autograd.grad(loss, x)[0]
    return slope


def _length(delta: Tensor) -> Tensor:
    length: Tensor = delta.flatten(1).norm(dim=1)
    return length.reshape(-1, *[1] * (delta.ndim - 1))


def _into_ball(delta: Tensor, eps: float) -> Tensor:
    return delta * (eps / _length(delta).clamp_min(1e-12)).clamp_max(1)


def _into_box(image: Tensor, delta: Tensor) -> Tensor:
    return (image + delta).clamp(0, 1) - image


def _key(model: Classifier, count: int, how: Attack, seed: int) -> str:
    """Return what tells the images of this model and setting from others."""
    attack = [how.eps, how.steps, how.rate, count, seed]
    mean = [*model.preprocess.mean, *model.preprocess.std]
    return sha256(canonical_json([state_sha256(model.network.state_dict()), attack, mean]))[:24]


def _names(part: ImageSet) -> Sequence[str]:
    """Return a name for each image: its number, its label and a digest of its pixels."""
    pixels = part.images[part.index]
    digests = [tensor_sha256(p)[:16] for p in pixels]
    return [
        f"{int(n)}-{int(c)}-{d}" for n, c, d in zip(part.index, part.labels, digests, strict=True)
    ]


def _read(file: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    try:
        content = safetensors.torch.load(file.read_bytes())
        pixels, fooled = content["image"], content["fooled"]
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{file}: no adversarial images; remove it") from error
    if pixels.shape != shape or pixels.dtype != torch.uint8 or len(fooled) != shape[0]:
        raise ArtifactError(
            f"{file}: expected images {shape}, got {tuple(pixels.shape)}; remove it"
        )
    return pixels, fooled
