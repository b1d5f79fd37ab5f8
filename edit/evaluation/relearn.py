"""Relearn time: how long a network must be trained until it knows again what it was to forget."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from bandstop.edit.accuracy import accuracy, accuracy_on
from bandstop.edit.baselines.training import MakesOptimizer, cross_entropy, trained
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.head import head_of
from bandstop.edit.images import ImageSet
from bandstop.edit.seeds import seeded


@dataclass(frozen=True, slots=True)
class Relearned:
    """How a network came to know again what it was to forget.

    Attributes:
        measure: `relearn_epochs`: the epochs that it took; the cap, with a note, where it did not.
        curve: accuracy on the forgotten after so many epochs, from 0: before the first one.
        goal: the accuracy that had to be reached.
    """

    measure: Measure
    curve: tuple[float, ...]
    goal: float


def relearn_epochs(
    subject: Subject,
    original: Subject,
    train: ImageSet,
    case: Case,
    *,
    cap: int = 20,
    images: int = 500,
    batch: int = 50,
    lr: float = 1e-4,
    head_lr: float = 1e-2,
    tolerance: float = 0.0,
) -> Relearned:
    """Return how many short epochs bring the accuracy on the forgotten back to the original's.

    Each epoch shows fresh images, drawn from all training images with the forgotten among them,
    without augmentation. Adam trains all weights, those of the head a hundred times faster: an edit
    may leave a head that points far away from a class whose features are all there, and a rate that
    turns such a head within 20 epochs wrecks the rest of a folded network. More epochs are better
    forgotten, but only the retrained network tells how many are many.

    Poppi et al., IEEE Intelligent Systems 2024 (arXiv 2304.02049), "Evaluation Metrics", have 100
    epochs at most and leave open the optimiser, the tolerance, and what is trained: here it is
    every weight of the network as it would be served, of WF-Net the folded row.

    The accuracy is that on the test images of the forgotten classes, all pooled, or on the
    forgotten images themselves. See `attackable` for where the training starts.

    Args:
        subject: left as it was.
        original: tells the accuracy to come back to.
        train: all training images; not only those of the case.
        case: what was forgotten; its seed draws the images.
        cap: epochs at most.
        images: of an epoch; all where there are fewer.
        batch: images a step.
        lr: of Adam, for all weights but the head's.
        head_lr: for the head's.
        tolerance: how far below the original's accuracy is good enough.

    Raises:
        InputError: `train` lacks what was forgotten, nothing can be asked, or a setting is wrong.
        DivergedError: the loss became NaN or infinite.
    """
    _check(train, case, cap, images, batch, tolerance)
    asked = forgotten_images(case)
    goal = _accuracy(forgotten_answers(original, case)) - tolerance
    per_epoch = math.ceil(min(images, len(train)) / batch)
    curve: list[float] = []

    def loss(student: Classifier, step: int) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(train), generator=seeded(case.seed, epoch))[:images]
        part = train.take(order[place * batch : (place + 1) * batch])
        return cross_entropy(student, *next(part.batches(batch)))

    def reached(student: Classifier, step: int) -> bool:
        if step % per_epoch:
            return False
        curve.append(accuracy_on(student, asked))
        return curve[-1] >= goal

    start = attackable(subject.model, case.classes)
    student, steps = trained(
        start,
        loss,
        cap * per_epoch,
        name=f"relearn {subject.name}",
        optimizer=_adam(start, lr, head_lr),
        seed=case.seed,
        finished=reached,
    )
    if steps == cap * per_epoch:
        reached(student, steps)
    return Relearned(_measure(curve, goal, cap), tuple(curve), goal)


def attackable(model: Classifier, classes: tuple[int, ...]) -> Classifier:
    """Return a copy of `model` as somebody would start from who wants the classes back.

    Every parameter learns, and the bias of a forgotten class is at least the lowest of the others.
    A bias of -1e4 hides a class from every gradient, but not from somebody who opens the file.
    """
    copied = copy.deepcopy(model).requires_grad_(True)
    others = [c for c in range(model.num_classes) if c not in classes]
    if not classes or not others:
        return copied
    bias = head_of(copied)[1].bias
    if bias is not None:
        with torch.no_grad():
            bias[list(classes)] = bias[list(classes)].clamp_min(bias[others].min())
    return copied


def _adam(model: Classifier, lr: float, head_lr: float) -> MakesOptimizer:
    """Return what makes the optimiser of a copy of `model`, with a rate of its head's own."""
    own = {id(p) for p in head_of(model)[1].parameters()}
    is_head = [id(p) in own for p in model.parameters()]

    def make(parameters: Iterable[nn.Parameter]) -> Optimizer:
        groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for parameter, of_head in zip(parameters, is_head, strict=True):
            groups[of_head].append(parameter)
        return Adam([{"params": groups[False], "lr": lr}, {"params": groups[True], "lr": head_lr}])

    return make


def forgotten_images(case: Case) -> ImageSet:
    """Return what tells whether something is known: see `forgotten_answers`.

    Raises:
        InputError: there is no such image.
    """
    images = case.test.of_classes(case.classes) if case.classes else case.forget
    check_any(len(images), case)
    return images


def forgotten_answers(subject: Subject, case: Case) -> Answers:
    """Return the answers to the test images of the forgotten classes, or to the forgotten images.

    Raises:
        InputError: there is no such image.
    """
    seen = subject.observed
    answers = seen.test.of_classes(case.classes) if case.classes else seen.forget
    check_any(len(answers), case)
    return answers


def check_any(count: int, case: Case) -> None:
    """Refuse a case in which `count` images, none, can be asked.

    Raises:
        InputError: which ones are missing.
    """
    if not count:
        what = f"test image of the classes {case.classes}" if case.classes else "forgotten image"
        raise InputError(f"the data has no {what}; without one nothing can be asked")


def _accuracy(answers: Answers) -> float:
    return accuracy(answers.logits.argmax(1), answers.labels)


def _measure(curve: list[float], goal: float, cap: int) -> Measure:
    if curve[-1] < goal:
        return Measure(cap, None, 1, f"not relearned within {cap} epochs")
    return Measure(len(curve) - 1, None, 1, "" if len(curve) > 1 else "known without training")


def _check(
    train: ImageSet, case: Case, cap: int, images: int, batch: int, tolerance: float
) -> None:
    if min(cap, images, batch) < 1 or not 0 <= tolerance < 1:
        raise InputError(
            "relearn: cap, images and batch must be 1 or more and tolerance from 0 to below 1, "
            f"got {cap}, {images}, {batch} and {tolerance}"
        )
    if not bool(torch.isin(case.forget.index, train.index).all()) or not len(case.forget):
        raise InputError(
            f"relearn: the {len(train)} training images lack some that were forgotten; "
            "give the whole training set"
        )
