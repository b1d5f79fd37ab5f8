"""Accuracies of answers that are written down, counted by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.accuracies import (
    accuracies,
    destinations,
    over_forgot,
    per_class,
    worst_class_drop,
)
from bandstop.edit.evaluation.measure import share
from bandstop.edit.evaluation.observed import Answers, Case, Observed, Subject
from bandstop.edit.request import ForgetRequest
from tests.networks import corners, tiny

CLASS = ForgetRequest(classes=(1,))
TWO = ForgetRequest(classes=(0, 3))
INSTANCES = ForgetRequest(instances=(2, 5))


def logits(answer: Tensor, labels: Sequence[int] | Tensor) -> Answers:
    """Return answers with the logits `answer` (n, classes), and features that nobody reads."""
    return Answers(answer.float(), torch.zeros(len(answer), 1), torch.as_tensor(labels))


def said(pairs: str) -> Answers:
    """Return the answers that 'TRUE>SAID TRUE>SAID ...' writes down, of 4 classes, all sure."""
    numbers = [tuple(map(int, pair.split(">"))) for pair in pairs.split()]
    columns = torch.tensor(numbers, dtype=torch.int64).reshape(-1, 2)
    return logits(20.0 * F.one_hot(columns[:, 1], 4), columns[:, 0])


def subject(forget: Answers, retain: Answers, test: Answers, name: str = "edited") -> Subject:
    return Subject(name, tiny(), Observed(forget, retain, test))


def asked(request: ForgetRequest, seed: int = 0) -> Case:
    """Return the case of `request`; its images are not looked at."""
    none = corners(4).of_classes(())
    return Case(request, none, none, none, none, seed)


BEFORE = subject(
    said("1>1 1>1 1>1 1>0"),
    said("0>0 2>2 3>3 3>2"),
    said("0>0 0>0 1>1 1>1 2>2 2>2 2>2 2>1 3>3 3>3"),
    "original",
)
AFTER = subject(
    said("1>0 1>0 1>2 1>1"),
    said("0>0 2>2 3>2 3>2"),
    said("0>0 0>3 1>2 1>1 2>2 2>0 2>0 2>2 3>3 3>3"),
)


def values(subject: Subject, request: ForgetRequest) -> dict[str, tuple[float, int]]:
    return {key: (m.value, m.n) for key, m in accuracies(subject, asked(request)).items()}


def test_accuracies_are_counted_set_by_set() -> None:
    assert values(AFTER, CLASS) == {
        "forget_acc": (1 / 4, 4),
        "retain_acc": (2 / 4, 4),
        "test_forget_acc": (1 / 2, 2),
        "test_retain_acc": (5 / 8, 8),
    }


def test_several_classes_are_pooled_with_images_counted_equally() -> None:
    test = said("0>0 0>1 0>1 0>1 0>1 0>1 3>3 3>3 1>1 2>1")
    found = values(replace_test(AFTER, test), TWO)
    assert found["test_forget_acc"] == (3 / 8, 8)  # a mean over the classes would be 7 / 12
    assert found["test_retain_acc"] == (1 / 2, 2)


def replace_test(subject: Subject, test: Answers) -> Subject:
    return replace(subject, observed=replace(subject.observed, test=test))


def test_of_single_images_all_test_images_stay() -> None:
    found = values(AFTER, INSTANCES)
    assert "test_forget_acc" not in found
    assert found["test_retain_acc"] == (6 / 10, 10)


def test_intervals_hold_the_share() -> None:
    for found in accuracies(AFTER, asked(CLASS)).values():
        assert found.ci95 is not None
        assert found.ci95[0] < found.value < found.ci95[1]


@pytest.mark.parametrize("n", [7, 1000, 2500])
def test_the_interval_of_none_and_of_all_ends_exactly(n: int) -> None:
    none, all_of_them = share(0, n).ci95, share(n, n).ci95
    assert none is not None
    assert all_of_them is not None
    width = 3.8415 / (n + 3.8415)  # z^2 / (n + z^2)
    assert none == pytest.approx((0.0, width), rel=1e-4)
    assert all_of_them == pytest.approx((1 - width, 1.0), rel=1e-4)
    assert (none[0], all_of_them[1]) == (0.0, 1.0)


def test_a_class_without_images_has_no_accuracy() -> None:
    found = per_class(said("0>0 0>2 3>3 1>2"), 5)
    assert [None if m is None else (m.value, m.n) for m in found] == [
        (0.5, 2),
        (0.0, 1),
        None,
        (1.0, 1),
        None,
    ]


def test_destinations_are_shares_of_what_was_said() -> None:
    found = destinations(said("1>0 1>0 1>2 1>3"), 5)
    torch.testing.assert_close(found, torch.tensor([0.5, 0, 0.25, 0.25, 0]).double())


@pytest.mark.parametrize(
    ("request_", "drop", "n"),
    [(CLASS, 7 / 8 - 5 / 8, 8), (INSTANCES, 9 / 10 - 6 / 10, 10), (TWO, 5 / 6 - 3 / 6, 6)],
)
def test_what_was_lost_on_the_rest_is_a_paired_difference(
    request_: ForgetRequest, drop: float, n: int
) -> None:
    found = over_forgot(AFTER, BEFORE, asked(request_))
    assert found.value == pytest.approx(drop, abs=1e-12)
    assert found.n == n


def test_the_interval_of_a_loss_is_of_differences_image_by_image() -> None:
    # of the eight images that stay one is lost thrice over and one is won: -1 0 0 0 0 1 1 1
    found = over_forgot(AFTER, BEFORE, asked(CLASS))
    deviation = torch.tensor([-1, 0, 0, 0, 0, 1, 1, 1]).double().std().item()
    assert found.ci95 is not None
    half = 1.959964 * deviation / 8**0.5
    assert found.ci95 == pytest.approx((0.25 - half, 0.25 + half), abs=1e-6)


def test_the_worst_class_is_one_that_stays() -> None:
    # class 1 loses 1/2 as well, but was to be forgotten; class 2 loses 1 of 4, class 0 1 of 2
    found = worst_class_drop(AFTER, BEFORE, asked(CLASS))
    assert (found.value, found.n) == (0.5, 2)
    assert found.note == "class 0 (class 0), the worst of 3 classes"


def test_a_class_that_gained_hides_no_loss() -> None:
    before, after = said("0>1 0>1 2>2 2>2 2>2 2>2"), said("0>0 0>0 2>2 2>2 2>2 2>0")
    found = worst_class_drop(replace_test(AFTER, after), replace_test(BEFORE, before), asked(CLASS))
    assert found.value == 0.25
    assert over_forgot(
        replace_test(AFTER, after), replace_test(BEFORE, before), asked(CLASS)
    ).value == pytest.approx(-1 / 6)


def test_where_all_classes_gained_the_worst_drop_is_negative() -> None:
    found = worst_class_drop(BEFORE, AFTER, asked(ForgetRequest(classes=(1, 3))))
    assert found.value == -0.25


NOTHING = said("")
NAN = logits(torch.full((2, 4), float("nan")), (0, 1))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(AFTER.observed, forget=NOTHING), "forget_acc: needs training images to forget"),
        (replace(AFTER.observed, retain=NOTHING), "retain_acc: needs training images that stay"),
        (replace(AFTER.observed, test=said("1>1")), "test_retain_acc: .*classes that stay, got"),
        (replace(AFTER.observed, test=said("0>0")), "test_forget_acc: .*got none of class 1; ev"),
        (replace(AFTER.observed, retain=NAN), "retain_acc: .*NaN or infinity for 2 of 2 training"),
    ],
)
def test_sets_that_say_nothing_are_refused(broken: Observed, message: str) -> None:
    with pytest.raises(InputError, match=message):
        accuracies(replace(AFTER, observed=broken), asked(CLASS))


def test_one_missing_class_of_several_is_named() -> None:
    with pytest.raises(InputError, match="got none of class 3; evaluate on a test set"):
        accuracies(replace_test(AFTER, said("0>0 1>1")), asked(TWO))


def test_networks_that_answered_other_images_are_not_compared() -> None:
    other = replace_test(BEFORE, said("0>0 0>0 1>1 1>1 3>3 2>2 2>2 2>1 3>3 3>3"))
    for metric in (over_forgot, worst_class_drop):
        with pytest.raises(InputError, match=r"_drop: compares two networks on the same images"):
            metric(AFTER, other, asked(CLASS))


def test_destinations_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="destinations: needs images"):
        destinations(NOTHING, 4)
