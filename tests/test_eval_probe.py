"""The linear probe on features with a known answer, and areas under ROC curves."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import share
from bandstop.edit.evaluation.observed import Answers, Case, Observed, Subject, case_of
from bandstop.edit.evaluation.probe import area, probe
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import DATA, INSTANCES
from tests.networks import noise, tiny

CENTRES = torch.eye(6) * 8  # of six classes, far apart


def answers(labels: Tensor, seed: int, *, centres: Tensor = CENTRES) -> Answers:
    """Return features around the centre of each class, with logits that tell nothing."""
    features = centres[labels] + noise(len(labels), centres.shape[1], seed=seed)
    return Answers(torch.zeros(len(labels), 6), features, labels)


def several(counts: dict[int, int]) -> Tensor:
    return torch.cat([torch.full((count,), c) for c, count in counts.items()])


def seen(
    forget: dict[int, int],
    retain: dict[int, int],
    test: dict[int, int],
    *,
    centres: Tensor = CENTRES,
    seed: int = 0,
) -> Subject:
    parts = [
        answers(several(counts), 10 * seed + i, centres=centres)
        for i, counts in enumerate((forget, retain, test))
    ]
    return Subject("edited", tiny(), Observed(*parts))


def case(*classes: int, seed: int = 0) -> Case:
    return case_of(DATA, ForgetRequest(classes=classes), seed=seed)


EACH = dict.fromkeys(range(6), 40)


def without(*classes: int) -> dict[int, int]:
    return {c: 40 for c in range(6) if c not in classes}


@pytest.mark.parametrize("classes", [(0,), (2,), (5,), (1, 4)])
def test_features_that_tell_a_class_apart_are_found_whatever_the_head_says(
    classes: tuple[int, ...],
) -> None:
    subject = seen(dict.fromkeys(classes, 40), without(*classes), EACH)
    found = probe(subject, case(*classes))
    assert found["probe_acc"] == share(40 * len(classes), 40 * len(classes))
    assert found["probe_auc"].value > 0.9999
    assert found["probe_auc"].n == 240
    assert found["probe_acc"].note == ""


def test_features_that_tell_nothing_are_at_chance() -> None:
    subject = seen({2: 200}, dict.fromkeys((0, 1, 3), 200), EACH, centres=torch.zeros(6, 4))
    found = probe(subject, case(2))
    assert found["probe_acc"].value == pytest.approx(1 / 4, abs=0.2)
    low, high = found["probe_auc"].ci95 or (1.0, 0.0)
    assert low < 0.5 < high


def test_classes_that_do_not_all_occur_keep_their_numbers() -> None:
    subject = seen({4: 30}, {1: 30, 5: 30}, {1: 20, 4: 10, 5: 20})
    assert probe(subject, case(4))["probe_acc"] == share(10, 10)


def test_two_classes_are_enough() -> None:
    subject = seen({4: 30}, {1: 30}, {1: 20, 4: 10})
    for forgotten in (4, 1):
        other = 5 - forgotten
        subject = seen({forgotten: 30}, {other: 30}, {other: 20, forgotten: 10})
        found = probe(subject, case(forgotten))
        assert found["probe_acc"] == share(10, 10)
        assert found["probe_auc"].value == 1.0


@pytest.mark.parametrize("retain", [{1: 40, 3: 40}, {1: 400, 3: 400}, {0: 400, 1: 40, 3: 400}])
def test_no_class_is_the_safe_guess(retain: dict[int, int]) -> None:
    # class 2 looks as class 1 does, of which there are fewer or more training images
    centres = CENTRES.clone()
    centres[2] = centres[1]
    values = [
        probe(
            seen({2: 400}, retain, {1: 300, 2: 300, 3: 300}, centres=centres, seed=seed), case(2)
        )["probe_acc"].value
        for seed in range(3)
    ]
    assert sum(values) / 3 == pytest.approx(0.5, abs=0.17)


def test_no_class_is_fitted_with_more_images_than_asked() -> None:
    # classes overlap, so that few images say less than many
    subject = seen({2: 300}, {1: 300, 3: 300}, EACH, centres=CENTRES / 8)
    few, many = (probe(subject, case(2), most=most)["probe_auc"].value for most in (4, 300))
    assert few < many


def test_the_scale_of_a_feature_does_not_matter() -> None:
    subject = seen({2: 60}, without(2), EACH, centres=CENTRES / 4)
    scales = torch.tensor([1e-3, 1.0, 1e4, 1.0, 50.0, 1e-2])
    parts = subject.observed
    scaled = Observed(
        *(
            replace(part, features=part.features * scales + 7)
            for part in (parts.forget, parts.retain, parts.test)
        )
    )
    one, two = probe(subject, case(2)), probe(replace(subject, observed=scaled), case(2))
    assert 0.1 < one["probe_acc"].value < 1
    assert two["probe_acc"].value == pytest.approx(one["probe_acc"].value, abs=0.03)
    assert two["probe_auc"].value == pytest.approx(one["probe_auc"].value, abs=1e-3)


def test_it_is_right_to_name_the_own_class_not_any_forgotten_one() -> None:
    # classes 1 and 4 cannot be told from each other, but well from the others
    centres = CENTRES.clone()
    centres[4] = centres[1]
    found = probe(seen({1: 200, 4: 200}, without(1, 4), EACH, centres=centres), case(1, 4))
    assert found["probe_acc"].value == pytest.approx(0.5, abs=0.15)
    assert found["probe_auc"].value > 0.999


def test_the_same_seed_gives_the_same_numbers() -> None:
    subject = seen({2: 300}, without(2), EACH, centres=CENTRES / 8)
    one, two, other = (probe(subject, case(2, seed=seed)) for seed in (0, 0, 1))
    assert one == two
    assert one["probe_auc"] != other["probe_auc"]


@pytest.mark.parametrize(
    ("above", "below", "value"),
    [
        ([1.0, 2.0, 3.0], [0.0, 2.0], 4.5 / 6),
        ([1.0, 2.0], [3.0], 0.0),
        ([3.0], [1.0, 2.0], 1.0),
        ([1.0, 1.0], [1.0, 1.0], 0.5),
    ],
)
def test_areas_are_the_share_of_pairs_in_order(
    above: list[float], below: list[float], value: float
) -> None:
    found = area(torch.tensor(above), torch.tensor(below))
    assert found.value == pytest.approx(value)
    assert found.n == len(above) + len(below)


def test_areas_are_those_of_scikit_learn() -> None:
    above, below = (10 * (noise(200) + 0.5)).round(), (10 * noise(300, seed=1)).round()
    truth = torch.cat((torch.ones(200), torch.zeros(300)))
    expected = roc_auc_score(truth.numpy(), torch.cat((above, below)).numpy())
    assert area(above, below).value == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_an_area_is_as_wide_as_areas_vary() -> None:
    found = [area(noise(40, seed=i) + 1, noise(90, seed=1000 + i)) for i in range(300)]
    spread = torch.tensor([f.value for f in found]).std().item()
    widths = [high - low for low, high in (f.ci95 or (0.0, 0.0) for f in found)]
    assert sum(widths) / len(widths) / 2 / 1.96 == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(
    ("forget", "retain", "test", "message"),
    [
        ({}, {1: 9}, {1: 9, 2: 9}, r"forgotten classes \[2\] lack some"),
        ({2: 9}, {1: 9}, {1: 9}, r"forgotten classes \[2\] lack some"),
        ({2: 9}, {2: 9}, {1: 9, 2: 9}, "0 training images are of others"),
        ({2: 9}, {1: 9}, {2: 9}, "of one or more others"),
    ],
)
def test_missing_images_are_refused(
    forget: dict[int, int], retain: dict[int, int], test: dict[int, int], message: str
) -> None:
    full = seen({2: 9}, {1: 9}, {1: 9, 2: 9}).observed
    parts = [
        answers(several(counts), 0) if counts else full.forget.take(torch.arange(0))
        for counts in (forget, retain, test)
    ]
    with pytest.raises(InputError, match=message):
        probe(Subject("edited", tiny(), Observed(*parts)), case(2))


def test_single_forgotten_images_are_refused() -> None:
    with pytest.raises(InputError, match="the probe looks for classes"):
        probe(seen({2: 9}, {1: 9}, {1: 9, 2: 9}), case_of(DATA, INSTANCES))
