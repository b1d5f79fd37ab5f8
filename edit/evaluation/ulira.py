"""U-LiRA: can an unlearned network be told from one that never saw the image, image by image?

Hayes et al., Inexact Unlearning Needs More Careful Evaluations (SaTML 2025, arXiv 2403.01218), with
the likelihood ratio of Carlini et al. (arXiv 2112.03570), as the SVD paper's appendix has it (arXiv
2312.00761): shadow networks differ in their seed and see the same images. 0.5 is the ideal.

Shadow networks come in pairs. Each pair is held out in turn, and the Gaussians that it is scored
with are fitted on the other pairs, so that no network is scored with what it was fitted on.
"""

import math

import torch
from scipy.stats import t as student  # type: ignore[import-untyped]  # no hints; with scikit-learn
from torch import Tensor
from torch.distributions import Normal

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure, bootstrapped

_KEYS = ("ulira_auc", "ulira_balanced_acc")
_PRIOR = 2  # networks that the mean variance of all images counts for
_LEAST_VARIANCE = 1e-12  # where every network gives every image the same score
_GROUPS = 16  # of pairs that the jackknife leaves out, at most
_FEWEST = 3  # pairs: one is held out, two are fitted


def ulira(unlearned: Tensor, retrained: Tensor) -> dict[str, Measure]:
    """Return how well unlearned networks are told from retrained ones, each pair held out once.

    `ulira_auc` is the area under the curve over the images of the held-out pair, mean over the
    pairs. Areas are taken pair by pair, since log-likelihood ratios of other fits have another
    scale. `ulira_balanced_acc` is (TPR + 1 - FPR) / 2 where FPR + TPR is closest to 1. The interval
    is the jackknife's over pairs of networks, with Student's t. It is None for three pairs, and
    where it would have no width; `n` counts the pairs.

    Args:
        unlearned: (pairs, images) scores of networks that were trained on the images, then
            unlearned.
        retrained: (pairs, images) scores of networks that never saw them. Both of a pair may share
            a seed.

    Raises:
        InputError: fewer than three pairs, no image, other shapes, or a score that is not finite.
    """
    _check(unlearned, retrained, fewest=_FEWEST)
    pairs, images = unlearned.shape
    value = _over_pairs(unlearned, retrained)
    half = _half_width(unlearned, retrained)
    note = f"{pairs} pairs of networks, {images} images"
    return {
        key: Measure(v, (max(0.0, v - h), min(1.0, v + h)) if h else None, pairs, note)
        for key, v, h in zip(_KEYS, value.tolist(), half.tolist(), strict=True)
    }


def ulira_of(
    target: Tensor, reference: Tensor, unlearned: Tensor, retrained: Tensor, *, seed: int = 0
) -> dict[str, Measure]:
    """Return how well one unlearned network is told from one retrained network (see `ulira`).

    The interval is a bootstrap over the images: it says nothing about other networks.

    Args:
        target: (images,) scores of the unlearned network.
        reference: (images,) scores of a retrained network.
        unlearned: (networks, images) scores of shadow networks; `target` is none of them.
        retrained: (networks, images) scores of shadow networks; `reference` is none of them.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than two shadow networks, or see `ulira`.
    """
    _check(unlearned, retrained, fewest=_FEWEST - 1)
    _check(target[None], reference[None], fewest=1)
    if target.shape != unlearned.shape[1:]:
        raise InputError(
            f"U-LiRA: expected {unlearned.shape[1]} scores of the target, got {len(target)}"
        )
    ours, theirs = (log_likelihood_ratio(s, unlearned, retrained) for s in (target, reference))
    return {
        key: bootstrapped(
            lambda at, k=k: separation(ours[at], theirs[at])[k].item(),  # type: ignore[misc]  # bound at once
            len(ours),
            seed=seed,
        )
        for k, key in enumerate(_KEYS)
    }


def logit_scaled(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log(p / (1 - p)) (n,) float64, where p is the softmax's for the true class.

    It is nearly Gaussian over trainings, unlike p (arXiv 2112.03570). It is computed from the
    logits (n, classes), so that p may round to 0 or 1.
    """
    own, scores = labels[:, None], logits.double()
    others = scores.scatter(1, own, -torch.inf).logsumexp(1)
    return scores.gather(1, own).squeeze(1) - others


def log_likelihood_ratio(score: Tensor, unlearned: Tensor, retrained: Tensor) -> Tensor:
    """Return log p(score | unlearned) - log p(score | retrained) of each image, (images,).

    Args:
        score: (images,) of a network that is none of the following.
        unlearned: (networks, images), to each image's column of which a Gaussian is fitted.
        retrained: (networks, images), the same.
    """
    ratio: Tensor = _gaussian(unlearned).log_prob(score) - _gaussian(retrained).log_prob(score)
    return ratio


def separation(unlearned: Tensor, retrained: Tensor) -> Tensor:
    """Return AUC, and balanced accuracy where FPR + TPR is closest to 1, as (..., 2).

    Args:
        unlearned: (..., images) of higher scores, it is claimed.
        retrained: (..., images).
    """
    ours, theirs = unlearned.sort().values, retrained.sort().values
    lower = torch.searchsorted(theirs, ours) + torch.searchsorted(theirs, ours, right=True)
    area = lower.double().mean(-1) / (2 * theirs.shape[-1])  # a tie counts half
    thresholds = torch.cat((ours, theirs), -1)
    tpr, fpr = (
        1 - torch.searchsorted(s, thresholds).double() / s.shape[-1] for s in (ours, theirs)
    )
    off = (fpr + tpr - 1).abs()
    even = off < off.amin(-1, keepdim=True) + 1e-9  # thresholds on either side may be as close
    balanced = ((tpr + 1 - fpr) / 2 * even).sum(-1) / even.sum(-1)
    return torch.stack((area, balanced), -1)


def _gaussian(scores: Tensor) -> Normal:
    """Return a Gaussian for each column of `scores` (networks, images).

    The variance of so few networks is unsure. So the mean variance of all images is mixed in as if
    it were of `_PRIOR` more networks, which also keeps it from zero (Smyth 2004, moderated
    variances); of many networks the image's own is left.
    """
    own, freedom = scores.var(0), len(scores) - 1
    variance = (_PRIOR * own.mean() + freedom * own) / (_PRIOR + freedom)
    return Normal(scores.mean(0), variance.clamp_min(_LEAST_VARIANCE).sqrt())


def _over_pairs(unlearned: Tensor, retrained: Tensor) -> Tensor:
    """Return AUC and balanced accuracy (2,), mean over the pairs, each held out in turn."""
    ours, theirs = [], []
    for i in range(len(unlearned)):
        others = torch.arange(len(unlearned)) != i
        fitted = unlearned[others], retrained[others]
        ours.append(log_likelihood_ratio(unlearned[i], *fitted))
        theirs.append(log_likelihood_ratio(retrained[i], *fitted))
    return separation(torch.stack(ours), torch.stack(theirs)).mean(0)


def _half_width(unlearned: Tensor, retrained: Tensor) -> Tensor:
    """Return half the width (2,) of the 95 % intervals by the jackknife over pairs; 0: unknown."""
    pairs = len(unlearned)
    groups = torch.arange(pairs).tensor_split(min(pairs, _GROUPS))
    if pairs <= _FEWEST:
        return torch.zeros(2)
    without = []
    for group in groups:
        left = ~torch.isin(torch.arange(pairs), group)
        without.append(_over_pairs(unlearned[left], retrained[left]))
    count = len(groups)
    error = math.sqrt((count - 1) ** 2 / count) * torch.stack(without).std(0)
    return error * float(student.ppf(0.975, count - 1))


def _check(unlearned: Tensor, retrained: Tensor, *, fewest: int) -> None:
    sides = {"unlearned": unlearned, "retrained": retrained}
    shapes = {name: tuple(scores.shape) for name, scores in sides.items()}
    pairs, images = unlearned.shape if unlearned.ndim == 2 else (0, 0)
    if unlearned.shape != retrained.shape or pairs < fewest or not images:
        raise InputError(
            f"U-LiRA: expected scores (networks, images) of {fewest} or more networks of each "
            f"kind on the same images, got {shapes}"
        )
    broken = [name for name, scores in sides.items() if not bool(scores.isfinite().all())]
    if broken:
        raise InputError(f"U-LiRA: scores that are NaN or infinite among the {broken} networks")
