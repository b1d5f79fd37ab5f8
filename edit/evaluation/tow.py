"""Tug of war: one number for how close a network is to the retrained one, on all sets at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bandstop.edit.evaluation.accuracies import check_same_images, needed, right, staying_test
from bandstop.edit.evaluation.confidence_attacks import entropy_members
from bandstop.edit.evaluation.measure import Measure, bootstrapped
from bandstop.edit.evaluation.observed import Answers, Case, Subject


def tow(subject: Subject, retrained: Subject, case: Case) -> Measure:
    """Return (1 - |dA_f|) (1 - |dA_r|) (1 - |dA_t|), from 0 to 1 where all is as retrained.

    Zhao et al., arXiv 2406.01257. dA are the differences of accuracy from the retrained network:
    on training images to forget, on training images that stay, and on test images; of these only
    the classes that stay, where classes were forgotten. The interval is a bootstrap over images,
    the same ones for both networks. Chance makes an absolute difference larger more often than
    smaller, so the interval reaches further below the value than above.

    Raises:
        InputError: an image set is empty, or the two networks answered other images.
    """
    gaps = _gaps(subject, retrained, case, "tow")
    return _product(gaps, case.seed)


def tow_mia(subject: Subject, retrained: Subject, case: Case) -> Measure:
    """Return `tow` with a membership attack's score in the place of A_f.

    The score is that of `mia_entropy`, where the paper's code has SalUn's attack on confidence.
    That one says little of a forgotten class, to which no network that forgot it gives any
    confidence. Whether members or non-members are counted makes no difference. The attack is
    fitted once, on all images, and not again in the bootstrap.

    Raises:
        InputError: an image set is empty, or the two networks answered other images.
    """
    _, *others = _gaps(subject, retrained, case, "tow_mia")
    (ours, note), (theirs, _) = (entropy_members(s, case, "tow_mia") for s in (subject, retrained))
    found = _product([ours.double() - theirs.double(), *others], case.seed)
    return Measure(found.value, found.ci95, found.n, note)


def _gaps(subject: Subject, retrained: Subject, case: Case, metric: str) -> list[Tensor]:
    """Return by how much `subject` is more often right for each image (n,), set by set."""
    gaps = []
    sets = (_sets(s, case, metric) for s in (subject, retrained))
    for ours, theirs in zip(*sets, strict=True):
        check_same_images(ours, theirs, metric)
        gaps.append(right(ours).double() - right(theirs).double())
    return gaps


def _sets(subject: Subject, case: Case, metric: str) -> tuple[Answers, Answers, Answers]:
    seen = subject.observed
    return (
        needed(seen.forget, metric, "training images to forget"),
        needed(seen.retain, metric, "training images that stay"),
        staying_test(subject, case, metric),
    )


def _product(gaps: Sequence[Tensor], seed: int) -> Measure:
    """Return the product of 1 - |mean gap| over the sets, with an interval over all images."""
    gap = torch.cat(tuple(gaps))
    set_of = torch.arange(len(gaps)).repeat_interleave(torch.tensor([len(g) for g in gaps]))

    def statistic(drawn: Tensor) -> float:
        total = torch.bincount(set_of[drawn], gap[drawn], minlength=len(gaps))
        mean = total / torch.bincount(set_of[drawn], minlength=len(gaps))  # NaN of a set left out
        return float((1 - mean.abs()).prod())

    return bootstrapped(statistic, len(gap), seed=seed)
