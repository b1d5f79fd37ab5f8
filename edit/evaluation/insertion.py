"""Insertion and deletion: whether the masks that WF-Net closed are those that a class needs.

Poppi et al., IEEE Intelligent Systems 2024 (arXiv 2304.02049), "Evaluation Metrics" and table 2.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bandstop.edit.accuracy import logits
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure, mean
from bandstop.edit.images import ImageSet
from bandstop.edit.progress import progress
from bandstop.edit.seeds import seeded

Row = Mapping[str, Tensor]  # parameter name -> one value a channel: masks, or a ranking


@dataclass(frozen=True, slots=True)
class Curves:
    """Confidence in the class as its masks are opened or closed, as a share of the original's.

    All curves are averages over the classes.

    Attributes:
        fractions: of each mask tensor that is opened or closed so far, 0 to 1.
        insertion: opening, what the masks suppress most first, from the row that forgets.
        deletion: closing in the same order, from open masks.
        insertion_random: opening in random order.
        deletion_random: closing in random order.
        areas: under the curves, over the classes: `insertion_auc`, best at 1, `deletion_auc`, best
            at 0, and the controls `insertion_random_auc` and `deletion_random_auc`.
    """

    fractions: tuple[float, ...]
    insertion: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion_random: tuple[float, ...]
    deletion_random: tuple[float, ...]
    areas: Mapping[str, Measure]


def insertion(
    backbone: Classifier,
    gates: GateEdit,
    classes: Sequence[int],
    images: ImageSet,
    original: Classifier,
    *,
    steps: int = 20,
    orders: int = 3,
    seed: int = 0,
) -> Curves:
    """Return how the confidence in each class follows its masks.

    The relevance of a channel is 1 minus its mask, ranked within each mask tensor; of equal ones
    the first comes first. A point is the mean softmax confidence in the class over its images,
    divided by the original's mean: a ratio of means. It can exceed 1. An area is that of
    trapezoids. The text leaves the number of steps open.

    The images are answered to 2 (1 + orders) (steps + 1) times.

    Args:
        backbone: what the masks were made for; left as it was.
        gates: the masks.
        classes: whose rows are looked at.
        images: with images of each of them.
        original: what confidences are compared with.
        steps: how many parts the masks are opened and closed in.
        orders: random orders that the controls are averaged over.
        seed: of the random orders.

    Raises:
        InputError: masks do not fit, there is no such row, or no image of a class.
    """
    _check(gates, classes, images, steps, orders)
    found = []
    for c in progress(classes, "insertion"):
        part = images.of_classes([c])
        row = {name: masks[c].cpu() for name, masks in gates.masks.items()}
        whole = _confidence(original, part, c)
        ranked = {name: mask.argsort(stable=True) for name, mask in row.items()}
        random = [_shuffled(row, seeded(seed, c, order)) for order in range(orders)]
        curves = [_pair(backbone, row, order, part, c, steps) for order in [ranked, *random]]
        shares = torch.stack(curves) / whole  # (1 + orders, 2, steps + 1)
        found.append(torch.stack((shares[0], shares[1:].mean(0))))
    return _curves(torch.stack(found), steps)


def _check(
    gates: GateEdit, classes: Sequence[int], images: ImageSet, steps: int, orders: int
) -> None:
    if steps < 1 or orders < 1:
        raise InputError(f"insertion: steps and orders must be 1 or more, got {steps}, {orders}")
    outside = [c for c in classes if not 0 <= c < gates.num_classes]
    if outside or not classes:
        raise InputError(
            f"insertion: expected one or more classes 0..{gates.num_classes - 1}, got "
            f"{tuple(classes)}"
        )
    missing = [c for c in classes if not len(images.of_classes([c]))]
    if missing:
        raise InputError(f"insertion: no image of the classes {missing} among {len(images)}")


def _pair(
    backbone: Classifier, row: Row, order: Row, images: ImageSet, c: int, steps: int
) -> Tensor:
    """Return the confidences (2, steps + 1) while masks open, and while they close."""
    open_ = {name: torch.ones_like(mask) for name, mask in row.items()}
    student, curves = copy.deepcopy(backbone), []
    for start, value in ((row, 1.0), (open_, 0.0)):
        points = []
        for step in range(steps + 1):
            masks = {name: _set(start[name], order[name], step / steps, value) for name in row}
            _mask_(student, backbone, masks)
            points.append(_confidence(student, images, c))
        curves.append(points)
    return torch.tensor(curves, dtype=torch.float64)


def _set(mask: Tensor, order: Tensor, fraction: float, value: float) -> Tensor:
    """Return `mask` (channels,) with `value` at the first `fraction` of the channels in `order`."""
    return mask.index_fill(0, order[: round(fraction * len(order))], value)


def _mask_(student: Classifier, backbone: Classifier, masks: Row) -> None:
    """Make the weights of `student` those of `backbone` under `masks`."""
    edit = GateEdit({name: mask[None].to(backbone.mean) for name, mask in masks.items()})
    student.network.load_state_dict(fold(backbone.network.state_dict(), edit, [0]))


def _confidence(model: Classifier, images: ImageSet, c: int) -> float:
    return logits(model, images).double().softmax(1)[:, c].mean().item()


def _shuffled(row: Row, generator: torch.Generator) -> Row:
    return {name: torch.randperm(len(mask), generator=generator) for name, mask in row.items()}


def _curves(shares: Tensor, steps: int) -> Curves:
    """Return the curves and areas of shares (classes, ranked or random, in or out, steps + 1)."""
    fractions = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    areas = torch.trapezoid(shares, fractions)  # (classes, 2, 2)
    keys = (("insertion", "deletion"), ("insertion_random", "deletion_random"))
    (into, out), (random_into, random_out) = shares.mean(0).tolist()
    return Curves(
        fractions=tuple(fractions.tolist()),
        insertion=tuple(into),
        deletion=tuple(out),
        insertion_random=tuple(random_into),
        deletion_random=tuple(random_out),
        areas={f"{keys[i][j]}_auc": mean(areas[:, i, j]) for i in range(2) for j in range(2)},
    )
