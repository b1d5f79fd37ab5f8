"""Membership attacks with one classifier for all images; weak ones, for comparison with papers."""

import math

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.accuracies import forgotten_test, needed, staying_test
from bandstop.edit.evaluation.measure import Measure, share
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.seeds import seeded

_MOST_CONFIDENCES = 5000
_MOST_ENTROPIES = 2500  # of each kind: fitting takes the square of it


def mia_svc(subject: Subject, case: Case, *, ratio: float | None = None) -> Measure:
    """Return the share of forgotten test images that an attack on confidence calls non-members.

    The attack of the SVD paper (Kodge et al., arXiv 2312.00761): a support vector classifier
    (C = 3, gamma = 1) learns from the probability of the true class. Members are retained training
    images, non-members are training images to forget. Near 0 for the original, 1 for a retrained
    network.

    It counts heads: where more retained than forgotten images have a confidence near 0, it calls
    all such images members and jumps from 1 to 0, with 9 retained images a forgotten one at about
    11 % damage. See `mia_svc_balanced`.

    Args:
        subject: the network.
        case: what was to be forgotten: classes. For single images it is not defined, since they
            have no test images; see `mia_entropy`.
        ratio: retained training images for each one to forget, in the data, where `case` holds
            samples of another ratio; one kind is thinned out to it. None takes all of `case`.

    Raises:
        InputError: an image set is empty, single images were forgotten, or no such ratio.
    """
    return _svc(subject, case, "mia_svc", ratio, balanced=False)


def mia_svc_balanced(subject: Subject, case: Case, *, ratio: float | None = None) -> Measure:
    """Return `mia_svc` with both kinds weighing the same, whatever their numbers.

    Raises:
        InputError: see `mia_svc`.
    """
    return _svc(subject, case, "mia_svc_balanced", ratio, balanced=True)


def mia_entropy(subject: Subject, case: Case) -> Measure:
    """Return the share of training images to forget that an attack on entropy calls members.

    The attack that bad teaching (arXiv 2205.08096) and SSD (arXiv 2308.07707) report: a classifier
    learns from the entropy of the answer. Members are retained training images, non-members test
    images of classes that stay; all test images where single images were forgotten. Both kinds
    weigh the same. It has no target of its own: what the retrained network has.

    Raises:
        InputError: an image set is empty.
    """
    called, note = entropy_members(subject, case, "mia_entropy")
    found = share(int(called.sum()), len(called))
    return Measure(found.value, found.ci95, found.n, note)


def entropy_members(subject: Subject, case: Case, metric: str) -> tuple[Tensor, str]:
    """Return which images to forget the attack of `mia_entropy` calls members.

    Returns:
        (n,) bool, and a note on how many images the attack has learnt from.

    Raises:
        InputError: an image set is empty; named as `metric`.
    """
    seen = subject.observed
    forget = needed(seen.forget, metric, "training images to forget")
    members = entropy(needed(seen.retain, metric, "training images that stay"))
    others = entropy(staying_test(subject, case, metric))
    members, others = (
        _some(values, _MOST_ENTROPIES, case.seed, number)
        for number, values in enumerate((members, others))
    )
    called = _called_members(members, others, entropy(forget), balanced=True)
    return called, _note(members, others)


def confidence(answers: Answers) -> Tensor:
    """Return the probability of the true class, (n,) float64."""
    probability = answers.logits.double().softmax(1)
    return probability.gather(1, answers.labels[:, None])[:, 0]


def entropy(answers: Answers) -> Tensor:
    """Return the entropy of the answer to each image, (n,) float64 in nats."""
    log_p = F.log_softmax(answers.logits.double(), dim=1)
    p = log_p.exp()
    return -torch.where(p > 0, p * log_p, 0.0).sum(1)


def _svc(
    subject: Subject, case: Case, metric: str, ratio: float | None, *, balanced: bool
) -> Measure:
    seen = subject.observed
    test = forgotten_test(subject, case, metric)
    members = confidence(needed(seen.retain, metric, "training images that stay"))
    others = confidence(needed(seen.forget, metric, "training images to forget"))
    numbers = _numbers(len(members), len(others), ratio, metric)
    members, others = (
        _some(values, most, case.seed, number)
        for number, (values, most) in enumerate(zip((members, others), numbers, strict=True))
    )
    called = _called_members(members, others, confidence(test), balanced=balanced)
    found = share(int((~called).sum()), len(called))
    return Measure(found.value, found.ci95, found.n, _note(members, others))


def _numbers(members: int, others: int, ratio: float | None, metric: str) -> tuple[int, int]:
    """Return how many of each kind are used: of the ratio asked for, at most so many members."""
    if ratio is None:
        ratio = members / others
    if not 0 < ratio < math.inf:
        raise InputError(f"{metric}: ratio must be a number above 0, got {ratio}")
    most = min(float(members), others * ratio, float(_MOST_CONFIDENCES))
    return max(1, round(most)), min(others, max(1, round(most / ratio)))


def _some(values: Tensor, most: int, seed: int, number: int) -> Tensor:
    drawn = torch.randperm(len(values), generator=seeded(seed, number))
    return values[drawn[:most]]


def _called_members(members: Tensor, others: Tensor, asked: Tensor, *, balanced: bool) -> Tensor:
    """Return which of `asked` (n,) look like `members` and not like `others`, (n,) bool."""
    feature = torch.cat((members, others))[:, None].numpy()
    label = np.repeat((1, 0), (len(members), len(others)))
    weight = "balanced" if balanced else None
    attack = SVC(C=3, gamma="auto", kernel="rbf", class_weight=weight).fit(feature, label)
    return torch.from_numpy(attack.predict(asked[:, None].numpy()) == 1)


def _note(members: Tensor, others: Tensor) -> str:
    return f"attack fitted on {len(members)} members and {len(others)} non-members"
