"""How often a network is right: on what was to be forgotten, on the rest, class by class."""

import torch
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure, mean, share
from bandstop.edit.evaluation.observed import Answers, Case, Subject


def accuracies(subject: Subject, case: Case) -> dict[str, Measure]:
    """Return the accuracy on each set of the case; several classes are pooled, images equal.

    Args:
        subject: the network.
        case: tells which classes were to be forgotten.

    Returns:
        `forget_acc` and `retain_acc` of the training images, `test_forget_acc` of the test images
        of the forgotten classes and `test_retain_acc` of the others. Where single images were
        forgotten there is no `test_forget_acc`, and `test_retain_acc` is of all test images.

    Raises:
        InputError: a set is empty, or a forgotten class has no test image.
    """
    seen = subject.observed
    sets = {
        "forget_acc": needed(seen.forget, "forget_acc", "training images to forget"),
        "retain_acc": needed(seen.retain, "retain_acc", "training images that stay"),
        "test_retain_acc": staying_test(subject, case, "test_retain_acc"),
    }
    if case.classes:
        sets["test_forget_acc"] = forgotten_test(subject, case, "test_forget_acc")
    return {key: share(int(right(answers).sum()), len(answers)) for key, answers in sets.items()}


def per_class(answers: Answers, num_classes: int) -> list[Measure | None]:
    """Return the accuracy on the images of each class; None where a class has no image."""
    hits = torch.bincount(answers.labels[right(answers)], minlength=num_classes).tolist()
    images = torch.bincount(answers.labels, minlength=num_classes).tolist()
    return [share(h, n) if n else None for h, n in zip(hits, images, strict=True)]


def destinations(answers: Answers, num_classes: int) -> Tensor:
    """Return the share of images that is taken for each class, (num_classes,) float64.

    Raises:
        InputError: there are no images.
    """
    needed(answers, "destinations", "images")
    taken = torch.bincount(answers.logits.argmax(1), minlength=num_classes)
    return taken.double() / len(answers)


def over_forgot(subject: Subject, original: Subject, case: Case) -> Measure:
    """Return `retain_drop`, the test accuracy that was lost outside what was to be forgotten.

    It is the original's `test_retain_acc` minus that of `subject`. The interval is of the
    difference on the same images; the classes of `case.request` are left out.

    Raises:
        InputError: no such images, or the two networks answered other images.
    """
    before, after = (staying_test(s, case, "retain_drop") for s in (original, subject))
    return mean(_loss(before, after, "retain_drop"))


def worst_class_drop(subject: Subject, original: Subject, case: Case) -> Measure:
    """Return the largest loss of test accuracy of any class that stays.

    It is negative where every class gained. The interval is of the difference on the images of
    that class alone. It does not know that the class was chosen for its loss, which chance makes
    look larger: the more classes and the fewer images, the more.

    Raises:
        InputError: no such images, or the two networks answered other images.
    """
    before, after = (staying_test(s, case, "worst_class_drop") for s in (original, subject))
    loss = _loss(before, after, "worst_class_drop")
    drops = {int(c): mean(loss[before.labels == c]) for c in before.labels.unique()}
    worst = max(drops, key=lambda c: drops[c].value)
    drop = drops[worst]
    note = f"{subject.model.class_names[worst]} (class {worst}), the worst of {len(drops)} classes"
    return Measure(drop.value, drop.ci95, drop.n, note)


def right(answers: Answers) -> Tensor:
    """Return for each image whether the largest logit is that of its class, (n,) bool."""
    return answers.logits.argmax(1) == answers.labels


def needed(answers: Answers, metric: str, what: str) -> Answers:
    """Return `answers` to the images that `what` names.

    Raises:
        InputError: `metric` is not defined: there are none, or they are not finite.
    """
    if not len(answers):
        raise InputError(f"{metric}: needs {what}, got none; evaluate on data that has some")
    broken = int((~answers.logits.isfinite()).any(1).sum())
    if broken:
        raise InputError(
            f"{metric}: needs finite logits, got NaN or infinity for {broken} of {len(answers)} "
            f"{what}; evaluate a network whose weights are sound"
        )
    return answers


def forgotten_test(subject: Subject, case: Case, metric: str) -> Answers:
    """Return the answers to the test images of the forgotten classes, for `metric`.

    Raises:
        InputError: a forgotten class has no test image, or single images were forgotten.
    """
    if not case.classes:
        raise InputError(
            f"{metric}: is defined for forgotten classes, got a request for "
            f"{len(case.request.instances)} single images; leave it out"
        )
    test = subject.observed.test
    missing = [c for c in case.classes if c not in test.labels]
    if missing:
        raise InputError(
            f"{metric}: needs test images of every forgotten class, got none of class "
            f"{', '.join(map(str, missing))}; evaluate on a test set that has them"
        )
    return needed(test.of_classes(case.classes), metric, "test images of the forgotten classes")


def staying_test(subject: Subject, case: Case, metric: str) -> Answers:
    """Return the answers to the test images of the classes that stay, for `metric`.

    Those are all test images where single images were forgotten.

    Raises:
        InputError: there are none.
    """
    answers = subject.observed.test.without_classes(case.classes)
    return needed(answers, metric, "test images of classes that stay")


def check_same_images(one: Answers, other: Answers, metric: str) -> None:
    """Refuse the answers of two networks to different images.

    Raises:
        InputError: other labels, or another number of classes.
    """
    if one.logits.shape == other.logits.shape and torch.equal(one.labels, other.labels):
        return
    raise InputError(
        f"{metric}: compares two networks on the same images, got {_shape(one)} and "
        f"{_shape(other)}; let both answer one case"
    )


def _shape(answers: Answers) -> str:
    n, classes = answers.logits.shape
    return f"{n} images of {classes} classes (sum of labels {int(answers.labels.sum())})"


def _loss(before: Answers, after: Answers, metric: str) -> Tensor:
    check_same_images(before, after, metric)
    return right(before).double() - right(after).double()
