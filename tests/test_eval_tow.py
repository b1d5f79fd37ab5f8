"""Tug of war of answers that are written down."""

from dataclasses import replace

import pytest

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.confidence_attacks import mia_entropy
from bandstop.edit.evaluation.observed import Subject
from bandstop.edit.evaluation.tow import tow, tow_mia
from tests.test_eval_accuracies import AFTER, BEFORE, CLASS, INSTANCES, asked, said, subject
from tests.test_eval_confidence_attacks import FIRST, seen


def test_the_product_of_gaps_is_known() -> None:
    # accuracies 1/4 and 3/4, 2/4 and 3/4, and on the test images of classes 0, 2, 3: 5/8 and 7/8
    found = tow(AFTER, BEFORE, asked(CLASS))
    assert found.value == pytest.approx((1 - 0.5) * (1 - 0.25) * (1 - 0.25), abs=1e-12)
    assert found.n == 4 + 4 + 8


def test_of_single_images_all_test_images_count() -> None:
    found = tow(AFTER, BEFORE, asked(INSTANCES))
    assert found.value == pytest.approx((1 - 0.5) * (1 - 0.25) * (1 - 0.3), abs=1e-12)
    assert found.n == 4 + 4 + 10


def test_it_does_not_matter_which_network_is_better() -> None:
    one, other = tow(AFTER, BEFORE, asked(CLASS)), tow(BEFORE, AFTER, asked(CLASS))
    assert one.value == other.value


def test_a_network_is_exactly_like_itself() -> None:
    found = tow(AFTER, AFTER, asked(CLASS))
    assert (found.value, found.ci95) == (1.0, (1.0, 1.0))


def test_differences_that_cancel_within_a_set_make_no_gap() -> None:
    one = subject(said("1>1 1>0"), said("0>0"), said("2>2"))
    other = subject(said("1>0 1>1"), said("0>0"), said("2>2"))
    assert tow(one, other, asked(CLASS)).value == 1


def repeated(network: Subject, times: int) -> Subject:
    seen = network.observed
    parts = {
        name: said_again.take(said_again.labels.new_tensor(range(len(said_again))).repeat(times))
        for name, said_again in (
            ("forget", seen.forget),
            ("retain", seen.retain),
            ("test", seen.test),
        )
    }
    return replace(network, observed=replace(seen, **parts))


def test_the_interval_narrows_with_more_images_and_follows_the_seed() -> None:
    widths = []
    for times in (4, 64):
        found = tow(repeated(AFTER, times), repeated(BEFORE, times), asked(CLASS))
        assert found.ci95 is not None
        assert found.ci95[0] < found.value < found.ci95[1]
        widths.append(found.ci95[1] - found.ci95[0])
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.25)
    assert tow(AFTER, BEFORE, asked(CLASS, 1)) == tow(AFTER, BEFORE, asked(CLASS, 1))
    two = [tow(repeated(AFTER, 9), repeated(BEFORE, 9), asked(CLASS, seed)) for seed in (1, 2)]
    assert two[0].value == two[1].value
    assert two[0].ci95 != two[1].ci95


def test_the_membership_score_takes_the_place_of_accuracy() -> None:
    # the classes that are said are the same but for the images to forget, of which no one is right
    one, other = seen(0.3, 0.3, 2.0, 2.0), seen(2.0, 0.3, 2.0, 2.0)
    scores = [mia_entropy(network, asked(FIRST)).value for network in (one, other)]
    found = tow_mia(one, other, asked(FIRST))
    assert found.value == pytest.approx(1 - (scores[0] - scores[1]), abs=1e-12)
    assert found.value < 0.1
    assert tow(one, other, asked(FIRST)).value == 1
    assert found.note == "attack fitted on 300 members and 150 non-members"
    assert tow_mia(one, one, asked(FIRST)).value == 1


def test_gaps_on_what_stays_count_there_too() -> None:
    one, other = seen(0.3, 0.3, 2.0, 2.0), seen(0.3, 0.3, 2.0, 2.0)
    answers = other.observed.test
    worse = replace(answers, logits=answers.logits.index_fill(0, answers.labels.new_tensor([0]), 0))
    worse.logits[0, 2] = 1
    lost = replace(other, observed=replace(other.observed, test=worse))
    assert tow_mia(one, lost, asked(FIRST)).value == pytest.approx(1 - 1 / 150, abs=0.02)
    assert tow(one, lost, asked(FIRST)).value == pytest.approx(1 - 1 / 150, abs=1e-9)


@pytest.mark.parametrize("part", ["forget", "retain", "test"])
def test_missing_images_are_refused(part: str) -> None:
    network = replace(AFTER, observed=replace(AFTER.observed, **{part: said("")}))
    for metric in (tow, tow_mia):
        with pytest.raises(InputError, match=f"{metric.__name__}: needs .*got none"):
            metric(network, network, asked(CLASS))


@pytest.mark.parametrize("part", ["forget", "retain", "test"])
def test_networks_that_answered_other_images_are_not_compared(part: str) -> None:
    network = replace(AFTER, observed=replace(AFTER.observed, **{part: said("2>2 0>0")}))
    for metric in (tow, tow_mia):
        with pytest.raises(InputError, match="compares two networks on the same images"):
            metric(network, BEFORE, asked(CLASS))
