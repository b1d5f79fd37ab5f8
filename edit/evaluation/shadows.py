"""Pairs of shadow networks for U-LiRA: one unlearned, one that never saw what is forgotten."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from bandstop.edit.accuracy import accuracy, accuracy_on, logits
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import edited
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.ulira import logit_scaled
from bandstop.edit.images import DataSplits
from bandstop.edit.method import Method, split
from bandstop.edit.methods import configured
from bandstop.edit.request import ForgetRequest
from bandstop.edit.unlearn import every_class, unlearn
from bandstop.edit.wf_net import WFNet

# the network trained with a seed on all that a request does not forget; None forgets nothing
Trains = Callable[[ForgetRequest | None, int], Classifier]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of one network.

    Attributes:
        scores: (images,) float64, see `logit_scaled`, of the training images to forget.
        forget_acc: accuracy on these.
        test_retain_acc: accuracy on the test images of the classes that stay.
    """

    scores: Tensor
    forget_acc: float
    test_retain_acc: float


@dataclass(frozen=True, slots=True)
class Shadow:
    """A pair of shadow networks, and the network that one of them was made from.

    Attributes:
        seed: of their trainings and of the method.
        original: trained on everything.
        unlearned: what the method made of it.
        retrained: trained without what is to be forgotten.
    """

    seed: int
    original: Seen
    unlearned: Seen
    retrained: Seen


def shadow_scores(
    trained: Trains,
    data: DataSplits,
    method: Method,
    request: ForgetRequest,
    seeds: Sequence[int],
) -> Iterator[Shadow]:
    """Yield a pair of shadow networks for each seed.

    Args:
        trained: trains a network by the same recipe with or without what is forgotten; that is
            `retrained` of bandstop.edit.evaluation.oracle with all but request and seed given, so
            that a run that was interrupted goes on.
        data: what the networks are trained on.
        method: unlearns; its seed is replaced.
        request: what is to be forgotten.
        seeds: one a pair.

    Raises:
        InputError: wf-net and single images; or see `unlearn`.
        NothingForgottenError: the method found no edit for a shadow network.
    """
    if isinstance(method, WFNet) and not request.classes:
        raise InputError("wf-net forgets classes, not instances; choose another method")
    for seed in seeds:
        original, never = trained(None, seed), trained(request, seed)
        after = _unlearned(original, configured(method, {"seed": seed}), request, data)
        yield Shadow(seed, *(seen(model, data, request) for model in (original, after, never)))


def seen(model: Classifier, data: DataSplits, request: ForgetRequest) -> Seen:
    """Return what `model` says of the images that `request` forgets and of the others."""
    forget, stays = split(data, request).forget, data.test.without_classes(request.classes)
    answers = logits(model, forget)
    return Seen(
        logit_scaled(answers, forget.labels),
        accuracy(answers.argmax(1), forget.labels),
        accuracy_on(model, stays),
    )


def _unlearned(
    model: Classifier, method: Method, request: ForgetRequest, data: DataSplits
) -> Classifier:
    asked = every_class(model) if isinstance(method, WFNet) else request
    folded, edit = unlearn(model, method, asked, data)
    return edited(folded, edit, request.classes)
