"""What the probabilities of the classes that stay tell of images of a forgotten class.

After Ebrahimpour-Boroojeny et al. (arXiv 2506.20893; MIA-NN, CMIA): a network that never saw a
class takes its images for neighbouring classes in a way of its own, and an edited network that only
lost the class's output does not. Theirs trains a classifier on the answers and compares a network's
score with that of retrained ones; the three figures here are built on the same idea.

All look at the probabilities renormalised over the classes that stay, so that the outputs of the
forgotten classes play no part: a logit mask has the figures of the original.
"""

import math

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.accuracies import check_same_images, forgotten_test, needed
from bandstop.edit.evaluation.measure import Measure, bootstrapped
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.progress import progress
from bandstop.edit.seeds import seeded

_FOLDS = 5
_NEIGHBOURS = 20  # classes that are looked at, at most
_FLOOR = -30.0  # of a log probability: below, one class would hide what the others say


def cmia_auc(subject: Subject, case: Case) -> Measure:
    """Return how well members of the forgotten classes are told from their test images, as an AUC.

    Members are the training images to forget. Images are compared with images of the same class
    alone, so that classes of different size in training and test set give nothing away. Chance is
    0.5; a retrained network is there but for the differences between the two sets.

    Args:
        subject: the network.
        case: what was to be forgotten: classes, and not all but one.

    Raises:
        InputError: too few images or classes, or single images were forgotten.
    """
    metric = "cmia_auc"
    test = forgotten_test(subject, case, metric)
    members = needed(subject.observed.forget, metric, "training images to forget")
    feature = _features(torch.cat([_log_staying(a, case, metric) for a in (members, test)]))
    label = torch.cat((members.labels, test.labels))
    target = _targets(len(members), len(test))
    fold = torch.cat([_folds(a, case.seed, i, metric) for i, a in enumerate((members, test))])
    score = _held_out_scores(feature, target, fold, weight=_weights(target, label), what=metric)
    stratum = fold * (int(label.max()) + 1) + label

    def statistic(drawn: Tensor) -> float:
        return auc(score[drawn], target[drawn], stratum[drawn])

    found = bootstrapped(statistic, len(target), seed=case.seed)
    if math.isnan(found.value):
        raise InputError(
            f"{metric}: needs {_FOLDS} images of a forgotten class or more in training and test "
            "set, got fewer of each; evaluate on more"
        )
    return found


def neighbour_tv(subject: Subject, retrained: Subject, case: Case) -> Measure:
    """Return how differently two networks send forgotten test images to the classes that stay.

    The total variation distance, from 0 to 1, between the mean probabilities that the two networks
    give; of several forgotten classes the mean, images counted equally. The interval is a bootstrap
    over images. Chance makes the distance larger more often than smaller.

    Raises:
        InputError: see `neighbour_auc`.
    """
    ours, theirs = _both(subject, retrained, case, "neighbour_tv")
    gap = _log_staying(ours, case, "neighbour_tv").exp()
    gap -= _log_staying(theirs, case, "neighbour_tv").exp()
    group = torch.searchsorted(torch.tensor(case.classes), ours.labels)

    def statistic(drawn: Tensor) -> float:
        total = torch.zeros(len(case.classes), gap.shape[1], dtype=gap.dtype)
        total.index_add_(0, group[drawn], gap[drawn])
        return float(total.abs().sum() / (2 * len(drawn)))

    return bootstrapped(statistic, len(gap), seed=case.seed)


def neighbour_auc(subject: Subject, retrained: Subject, case: Case) -> Measure:
    """Return how well a network's answers to forgotten test images are told from the retrained's.

    The AUC of a classifier that sees one answer and says whose it is (a two-sample test); chance is
    0.5. The two answers to an image are in one fold: none of both is learnt from when the other is
    asked for. Two networks retrained from different seeds are told apart a little, too.

    Args:
        subject: the network.
        retrained: the network that it should be like.
        case: what was to be forgotten: classes, and not all but one.

    Raises:
        InputError: too few images or classes, single images were forgotten, or the two networks
            answered other images.
    """
    metric = "neighbour_auc"
    both = _both(subject, retrained, case, metric)
    n = len(both[0])
    feature = _features(torch.cat([_log_staying(a, case, metric) for a in both]))
    target, fold = _targets(n, n), _folds(both[0], case.seed, 0, metric).repeat(2)
    score = _held_out_scores(feature, target, fold, weight=torch.ones(2 * n), what=metric)

    def statistic(drawn: Tensor) -> float:
        rows = torch.cat((drawn, drawn + n))
        return auc(score[rows], target[rows], fold[rows])

    return bootstrapped(statistic, n, seed=case.seed)


def auc(score: Tensor, target: Tensor, stratum: Tensor) -> float:
    """Return the share of pairs in which the score of the first is above that of the second.

    A pair is of one `target` and one that is not, of the same stratum; equal scores count half.
    NaN where there is no pair.

    Args:
        score: (n,) float.
        target: (n,) bool.
        stratum: (n,) int64 from 0.
    """
    rank = score.unique(return_inverse=True)[1]
    width = len(score) + 1  # more than any rank: keys of different strata never mix
    key = stratum * width + rank
    below = key[~target].sort().values
    asked, start = key[target], stratum[target] * width
    first = torch.searchsorted(below, start)
    pairs = torch.searchsorted(below, start + width) - first
    less = torch.searchsorted(below, asked) - first
    same = torch.searchsorted(below, asked, right=True) - first - less
    return float((less + same.double() / 2).sum() / pairs.sum())


def _both(subject: Subject, retrained: Subject, case: Case, metric: str) -> tuple[Answers, Answers]:
    ours, theirs = (forgotten_test(s, case, metric) for s in (subject, retrained))
    check_same_images(ours, theirs, metric)
    return ours, theirs


def _log_staying(answers: Answers, case: Case, metric: str) -> Tensor:
    """Return the log probabilities of the classes that stay, given that it is one of them."""
    classes = answers.logits.shape[1]
    staying = [c for c in range(classes) if c not in case.classes]
    if len(staying) < 2:
        raise InputError(
            f"{metric}: needs two classes that stay, got {len(staying)} of {classes}; leave it out"
        )
    return F.log_softmax(answers.logits[:, staying].double(), dim=1)


def _features(log_p: Tensor) -> Tensor:
    """Return what the classifier sees of log probabilities (n, classes): (n, at most 40).

    Those of the nearest classes, in an order that is the same for all images; and the largest of
    each image: whether it is surely one of them, whichever.
    """
    nearest = log_p.exp().mean(0).topk(min(_NEIGHBOURS, log_p.shape[1])).indices
    largest = log_p.topk(len(nearest), dim=1).values
    return torch.cat((log_p[:, nearest], largest), dim=1).clamp(min=_FLOOR)


def _targets(yes: int, no: int) -> Tensor:
    return torch.arange(yes + no) < yes


def _folds(answers: Answers, seed: int, number: int, metric: str) -> Tensor:
    """Return the fold of each image, at random; each has nearly as many images of each class."""
    n = len(answers)
    if n < 2 * _FOLDS:
        raise InputError(
            f"{metric}: needs {2 * _FOLDS} images to forget in training and test set for "
            f"cross-validation, got {n}; evaluate on more"
        )
    drawn = torch.randperm(n, generator=seeded(seed, number))
    by_class = drawn[answers.labels[drawn].argsort(stable=True)]
    return torch.zeros(n, dtype=torch.int64).index_copy(0, by_class, torch.arange(n) % _FOLDS)


def _weights(target: Tensor, label: Tensor) -> Tensor:
    """Return weights (n,) by which members and others weigh the same within each class."""
    kind = label * 2 + target
    return 1 / kind.bincount().double()[kind]


def _held_out_scores(
    feature: Tensor, target: Tensor, fold: Tensor, *, weight: Tensor, what: str
) -> Tensor:
    """Return the score of each row, by a classifier that was fitted on the other folds."""
    score = torch.zeros(len(target), dtype=torch.float64)
    for number in progress(range(_FOLDS), what):
        seen, asked = fold != number, fold == number
        w = weight[seen] * int(seen.sum()) / weight[seen].sum()  # a mean of 1: C keeps its meaning
        attack = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        attack.fit(feature[seen].numpy(), target[seen].numpy(), logisticregression__sample_weight=w)
        score[asked] = torch.from_numpy(
            np.asarray(attack.decision_function(feature[asked].numpy()))
        )
    return score
