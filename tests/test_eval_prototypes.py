"""Few-shot prototypes on features with a known answer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.observed import Answers, Case, Observed, Subject, case_of
from bandstop.edit.evaluation.prototypes import prototype_acc
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import DATA, INSTANCES
from tests.networks import noise, tiny

X, Y, Z = torch.eye(3).unbind()
Rows = list[tuple[int, Tensor]]  # class and feature


def answers(rows: Rows) -> Answers:
    features = torch.stack([feature for _, feature in rows]) if rows else torch.empty(0, 3)
    labels = torch.tensor([c for c, _ in rows], dtype=torch.int64)
    return Answers(torch.zeros(len(rows), 6), features, labels)


def subject(forget: Rows, retain: Rows, test: Rows) -> Subject:
    return Subject("edited", tiny(), Observed(answers(forget), answers(retain), answers(test)))


def case(*classes: int, seed: int = 0) -> Case:
    return case_of(DATA, ForgetRequest(classes=classes), seed=seed)


RETAIN: Rows = [(1, Y), (1, 3 * Y), (3, Z)]


@pytest.mark.parametrize(
    ("test", "value"),
    [
        ([(2, X), (2, 5 * X + Y)], 1.0),
        ([(2, X), (2, X + 5 * Y)], 0.5),
        ([(2, Y), (2, Z), (2, X + 2 * Z)], 0.0),
        ([(2, X), (1, Y), (3, Z), (1, X)], 1.0),  # only images of the forgotten class count
        ([(2, torch.zeros(3))], 0.0),  # alike to all, so not to its own
        ([(2, X + Y)], 0.0),  # a tie
    ],
)
def test_images_are_of_the_class_whose_prototype_is_nearest(test: Rows, value: float) -> None:
    found = prototype_acc(subject([(2, X)] * 5, RETAIN, test), case(2), repeats=3)
    assert found.value == pytest.approx(value)
    assert found.n == 3


def test_no_forgotten_class_is_favoured_by_its_number() -> None:
    # a tie with the first class, and with the last
    for c in (0, 5):
        rows: Rows = [(c, Y), (c, torch.zeros(3))]
        assert prototype_acc(subject([(c, Y)] * 5, RETAIN, rows), case(c)).value == 0.0


def test_long_features_count_no_more_than_short_ones() -> None:
    # 4 of 5 point to x; the fifth is long and points to y, as class 1 does
    few: Rows = [(2, X)] * 4 + [(2, 100 * Y)]
    found = prototype_acc(subject(few, RETAIN, [(2, X), (2, 2 * X + Y)]), case(2))
    assert found.value == 1.0


def test_retained_prototypes_are_means_of_directions_too() -> None:
    # class 1 would point to z if lengths counted; its mean direction is nearer to y
    retain: Rows = [(1, Y), (1, Y), (1, Y), (1, 100 * Z)]
    found = prototype_acc(subject([(2, X)] * 5, retain, [(2, X + 1.2 * Y)]), case(2))
    assert found.value == 0.0


def test_draws_are_averaged() -> None:
    # with one shot, half of the draws point to x; the others are class 1's own direction
    few: Rows = [(2, X), (2, Y)] * 5
    found = prototype_acc(subject(few, RETAIN, [(2, X)] * 4), case(2), shots=1, repeats=400)
    assert found.value == pytest.approx(0.5, abs=0.1)
    low, high = found.ci95 or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.05)
    assert found.n == 400


def test_so_many_shots_are_used_as_asked() -> None:
    # x outweighs y in every draw of five of these six, but not in one
    few: Rows = [(2, X)] * 5 + [(2, Y)]
    five = prototype_acc(subject(few, RETAIN, [(2, X + 0.1 * Y)]), case(2), shots=5)
    assert (five.value, five.ci95) == (1.0, (1.0, 1.0))
    one = prototype_acc(subject(few, RETAIN, [(2, X + 0.1 * Y)]), case(2), shots=1)
    assert 0.5 < one.value < 1.0


def test_each_forgotten_class_has_a_prototype_and_rivals_the_others() -> None:
    few: Rows = [(1, X)] * 5 + [(4, Y)] * 5
    test: Rows = [(1, X), (4, Y), (4, X), (1, Z)]
    found = prototype_acc(subject(few, [(3, Z)], test), case(1, 4))
    assert found.value == pytest.approx(0.5)
    same = prototype_acc(subject([(1, X)] * 5 + [(4, X)] * 5, [(3, Z)], test), case(1, 4))
    assert same.value == 0.0


def test_retained_images_of_forgotten_classes_are_left_out() -> None:
    retain: Rows = [(1, Y), (2, X), (4, Z)]
    few: Rows = [(2, X)] * 5 + [(4, Z)] * 5
    found = prototype_acc(subject(few, retain, [(2, X), (4, Z)]), case(2, 4))
    assert found.value == 1.0


def test_the_same_seed_gives_the_same_number() -> None:
    few: Rows = [(2, X + 0.8 * noise(3, seed=i)) for i in range(40)]
    test: Rows = [(2, X + noise(3, seed=100 + i)) for i in range(60)]
    given = subject(few, RETAIN, test)
    one, two, other = (prototype_acc(given, case(2, seed=seed), shots=1) for seed in (0, 0, 1))
    assert one == two
    assert one != other


@pytest.mark.parametrize(
    ("forget", "retain", "test", "settings", "message"),
    [
        ([(2, X)] * 4, RETAIN, [(2, X)], {}, r"need 5 training images .* classes \[2\] have fewer"),
        ([(2, X)] * 5, RETAIN, [(1, X)], {}, "and test images"),
        ([(2, X)] * 5, [(2, X)], [(2, X)], {}, "need retained training images"),
        ([(2, X)] * 5, RETAIN, [(2, X)], {"shots": 0}, "1 or more: 0, 20"),
        ([(2, X)] * 5, RETAIN, [(2, X)], {"repeats": 0}, "1 or more: 5, 0"),
    ],
)
def test_missing_images_and_wrong_settings_are_refused(
    forget: Rows, retain: Rows, test: Rows, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prototype_acc(subject(forget, retain, test), case(2), **settings)


def test_single_forgotten_images_are_refused() -> None:
    with pytest.raises(InputError, match="prototypes are of classes"):
        prototype_acc(subject([(2, X)] * 5, RETAIN, [(2, X)]), case_of(DATA, INSTANCES))
