"""How far two networks' answers lie apart: Jensen-Shannon divergence, ZRF, activation distance."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.arch import build
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.accuracies import check_same_images, needed
from bandstop.edit.evaluation.measure import Measure, mean
from bandstop.edit.evaluation.observed import Answers, Subject
from bandstop.edit.seeds import seeded


def js(p: Tensor, q: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of two answers to each image, (n,) float64 in nats.

    Half of KL(p || m) plus half of KL(q || m) with m = (p + q) / 2 (Lin 1991), summed
    over the classes: from 0 to ln 2. It stays in log space, so that no probability that
    underflows is taken the logarithm of.

    Args:
        p: (n, classes) logits.
        q: (n, classes) logits.

    Raises:
        InputError: of different shapes.
    """
    if p.shape != q.shape:
        raise InputError(
            f"js: needs logits of one shape, got {tuple(p.shape)} and {tuple(q.shape)}; "
            "let both networks answer the same images"
        )
    log_p, log_q = F.log_softmax(p.double(), dim=1), F.log_softmax(q.double(), dim=1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((_kl(log_p, log_m) + _kl(log_q, log_m)) / 2).clamp(min=0)


def zrf(subject: Subject, untrained: Sequence[Answers]) -> Measure:
    """Return the zero retrain forgetting score on the training images to forget.

    1 minus the divergence (`js`, in nats) from a network with random weights (Chundawat et al.,
    arXiv 2205.08096), averaged over the networks given; the interval is over images. It runs from
    0.307 to 1. A network that is sure of itself has about 0.474 with 10 classes, and 0.311 with
    1000. Good is not 1, but what the retrained network has. Implementations that average over
    classes too, or swap the arguments of KL, give other numbers (0.744 for 0.474).

    Args:
        subject: the network.
        untrained: what networks of the same classes with random weights answer to the training
            images to forget; see `untrained_twins`.

    Raises:
        InputError: no images, no answers, or answers of other classes or to other images.
    """
    ours = needed(subject.observed.forget, "zrf", "training images to forget")
    if not untrained:
        raise InputError("zrf: needs networks with random weights, got none; see untrained_twins")
    total = torch.zeros(len(ours), dtype=torch.float64)
    for theirs in untrained:
        check_same_images(ours, theirs, "zrf")
        total += js(ours.logits, theirs.logits)
    return mean(1 - total / len(untrained))


def untrained_twins(
    model: Classifier, count: int = 3, seed: int = 0, *, trust_factory: bool = False
) -> tuple[Classifier, ...]:
    """Return networks of the architecture of `model` with random weights, for `zrf`.

    They are in evaluation mode, their BatchNorm has its fresh statistics (mean 0, variance 1) and
    is not folded.

    Args:
        model: what they look like; left as it was.
        count: how many.
        seed: of the weights.
        trust_factory: whether the user's own module may be imported; see `build`.

    Raises:
        InputError: a count below 1, or see `build`.
    """
    if count < 1:
        raise InputError(f"untrained_twins: count must be at least 1, got {count}")
    size, channels = model.preprocess.size, model.preprocess.channels
    return tuple(
        model.replaced(
            build(
                model.arch,
                model.num_classes,
                channels,
                size,
                seed=_seed(seed, number),
                trust_factory=trust_factory,
            ),
            bn_folded=False,
        )
        for number in range(count)
    )


def js_div(subject: Subject, retrained: Subject) -> Measure:
    """Return the mean divergence (`js`, in nats) from the retrained network, on what to forget.

    0 where both answer alike, ln 2 = 0.693 at most.

    Raises:
        InputError: no training images to forget, or the two networks answered other images.
    """
    one, other = _both(subject, retrained, "js_div")
    return mean(js(one.logits, other.logits))


def activation_distance(subject: Subject, retrained: Subject) -> Measure:
    """Return the mean distance from the retrained network's probabilities, on what to forget.

    Euclidean, from 0 to the square root of 2 (Chundawat et al., arXiv 2205.08096).

    Raises:
        InputError: no training images to forget, or the two networks answered other images.
    """
    one, other = _both(subject, retrained, "activation_distance")
    difference = one.logits.double().softmax(1) - other.logits.double().softmax(1)
    return mean(torch.linalg.vector_norm(difference, dim=1))


def _kl(log_p: Tensor, log_m: Tensor) -> Tensor:
    """Return KL(p || m) of each row; a class with probability 0 adds nothing."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_m), 0.0).sum(1)


def _both(subject: Subject, retrained: Subject, metric: str) -> tuple[Answers, Answers]:
    one, other = subject.observed.forget, retrained.observed.forget
    check_same_images(one, other, metric)
    return needed(one, metric, "training images to forget"), other


def _seed(seed: int, number: int) -> int:
    # the original may have been trained from `build(seed=0)`: its start must not be its twin
    return int(torch.randint(2**31, (), generator=seeded(seed, number)))
