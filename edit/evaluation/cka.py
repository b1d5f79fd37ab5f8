"""How alike two networks see the same images, layer by layer: linear CKA.

Kornblith, Norouzi, Lee, Hinton: Similarity of Neural Network Representations Revisited, ICML 2019
(arXiv 1905.00414). Their estimate is far above 0 for unrelated features where there are fewer
images than features. So the inner products are estimated without bias here, as by Nguyen, Raghu,
Kornblith (arXiv 2010.15327, equation 3); unrelated features then give about 0, sometimes less.
"""

import math
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Z95, Measure
from bandstop.edit.evaluation.observed import Case, Subject, sample
from bandstop.edit.evaluation.relearn import forgotten_answers, forgotten_images
from bandstop.edit.images import ImageSet
from bandstop.edit.seeds import seeded

_BATCH = 100
_GROUPS = 50
_CONSTANT = 1e-6  # a share of the features' size, above float32's rounding


def cka(subject: Subject, other: Subject, case: Case, *, most: int = 500) -> dict[str, float]:
    """Return the linear CKA of each layer that both networks have, in order.

    A layer is a convolution or a linear one, by its name, which folding BatchNorm leaves as it is.
    Its output is averaged over places or tokens, so that memory stays small. Where one network is
    folded and the other not, outputs differ by the BatchNorm between; compare folded ones.

    Args:
        subject: one network.
        other: the original, or the retrained one.
        case: it is asked about the test images of the forgotten classes, or the forgotten images.
        most: images at most, drawn at random by the case's seed.

    Raises:
        InputError: fewer than 4 images, or no layer in common.
    """
    images = sample(forgotten_images(case), most, case.seed)
    ours, theirs = (outputs(one.model, images) for one in (subject, other))
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise InputError(f"cka: {subject.name} and {other.name} have no layer of the same name")
    return {name: linear_cka(ours[name], theirs[name]) for name in shared}


def cka_to(subject: Subject, reference: Subject, case: Case, *, most: int = 500) -> Measure:
    """Return the linear CKA of what the two heads read, with its jackknife interval.

    The jackknife leaves out one of 50 groups at a time. The bootstrap will not do here: an image
    that is drawn twice is like itself.

    Args:
        subject: one network.
        reference: the other one.
        case: see `cka`.
        most: see `cka`.

    Raises:
        InputError: fewer than 4 images.
    """
    both = [forgotten_answers(one, case).features for one in (subject, reference)]
    order = torch.randperm(len(both[0]), generator=seeded(case.seed))[:most]
    one, two = (_gram(features[order]) for features in both)
    value, n = _alignment(one, two), len(order)
    if n < 8:
        return Measure(value, None, n)
    groups = torch.arange(n).tensor_split(min(n, _GROUPS))
    kept = [~torch.isin(torch.arange(n), group) for group in groups]
    values = torch.tensor([_alignment(one[k][:, k], two[k][:, k]) for k in kept]).double()
    g = len(groups)
    half = Z95 * (g - 1) * math.sqrt(values.var().item() / g)
    return Measure(value, (max(-1.0, value - half), min(1.0, value + half)), n)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return how alike features (n, d) and (n, e) of the same n images are; 1 at most.

    Rotations, shifts and one scale for all features do not count. It is 0 where all images have the
    same features.

    Raises:
        InputError: the images are not the same number, or fewer than 4.
    """
    if len(x) != len(y):
        raise InputError(f"cka compares features of the same images, got {len(x)} and {len(y)}")
    return _alignment(_gram(x), _gram(y))


def outputs(model: Classifier, images: ImageSet) -> dict[str, Tensor]:
    """Return what each convolution and linear layer answers (n, channels), averaged over places.

    Layers that are not called with one row an image are left out, and so is all but the last call.

    Args:
        model: in evaluation.
        images: to be answered to.
    """
    seen: dict[str, Tensor] = {}
    parts: list[dict[str, Tensor]] = []
    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):

                def keep(layer: nn.Module, _x: object, y: Tensor, name: str = name) -> None:
                    seen[name] = _averaged(layer, y).cpu()

                hooks.callback(module.register_forward_hook(keep).remove)
        for image, _ in images.batches(_BATCH):
            seen.clear()
            model(image.to(model.mean))
            parts.append({name: y for name, y in seen.items() if len(y) == len(image)})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _averaged(layer: nn.Module, y: Tensor) -> Tensor:
    """Return the mean (n, channels) of a layer's answer over everything but images and channels."""
    if isinstance(layer, nn.Conv2d):
        return y.flatten(2).mean(2)
    return y.flatten(1, -2).mean(1) if y.ndim > 2 else y


def _gram(x: Tensor) -> Tensor:
    """Return the inner products (n, n) of centred features (n, d)."""
    if len(x) < 4:
        raise InputError(f"cka needs 4 images or more, got {len(x)}")
    x = x.double()
    centred = x - x.mean(0)
    if float(centred.norm()) <= _CONSTANT * float(x.norm()):
        centred = torch.zeros_like(x)  # what rounding has left would be scaled up to 1
    return centred @ centred.T


def _alignment(one: Tensor, two: Tensor) -> float:
    """Return the cosine between two matrices of inner products (n, n), centred without bias."""
    a, b = _centred(one), _centred(two)
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return min(1.0, float((a * b).sum()) / size) if size else 0.0


def _centred(gram: Tensor) -> Tensor:
    """Return `gram` so that its inner products estimate HSIC without bias, up to a factor.

    What an image has in common with itself is left out, and rows and columns are centred for the
    others (Szekely and Rizzo, Annals of Statistics 2014, definition 2, for distances).
    """
    n = len(gram)
    others = gram - gram.diag().diag()
    row = others.sum(0) / (n - 2)
    centred = others - row[:, None] - row[None, :] + others.sum() / ((n - 1) * (n - 2))
    return centred - centred.diag().diag()
