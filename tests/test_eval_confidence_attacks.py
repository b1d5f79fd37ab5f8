"""Attacks on confidence and entropy, on answers whose best guess is known."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.confidence_attacks import (
    confidence,
    entropy,
    mia_entropy,
    mia_svc,
    mia_svc_balanced,
)
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.request import ForgetRequest
from tests.networks import noise
from tests.test_eval_accuracies import asked, logits, said, subject

FIRST = ForgetRequest(classes=(0,))
INSTANCES = ForgetRequest(instances=(2, 5))


def near(middle: float, n: int, seed: int) -> Tensor:
    """Return `n` probabilities near `middle`, inside 0..1."""
    return (middle + 0.01 * noise(n, seed=seed)).clamp(0.001, 0.999)


def confident(probability: Tensor, label: int, *, stray: int) -> Answers:
    """Return answers that give class `label` this probability and class `stray` the rest."""
    answer = torch.full((len(probability), 4), -40.0)
    answer[:, label] = probability.log()
    answer[:, stray] = (1 - probability).log()
    return logits(answer, torch.full((len(probability),), label))


def both(one: Answers, other: Answers) -> Answers:
    parts = ((one.logits, other.logits), (one.labels, other.labels))
    return logits(*(torch.cat(pair) for pair in parts))


def retrained(damage: float = 0.0, *, forget: int = 100, seed: int = 0) -> Subject:
    """Return a network that never saw class 0: no confidence there, and 9 times as many others.

    Of what stays it is sure, but for the share `damage`, of which it is as unsure.
    """
    kept = 9 * forget
    lost = round(damage * kept)
    retain = torch.cat((near(0.97, kept - lost, seed), near(0.0, lost, seed + 1)))
    return subject(
        confident(near(0.0, forget, seed + 2), 0, stray=1),
        confident(retain, 1, stray=0),
        both(
            confident(near(0.0, 50, seed + 3), 0, stray=1),
            confident(near(0.97, 150, seed + 4), 1, stray=0),
        ),
    )


def original() -> Subject:
    sure = [confident(near(0.97, n, seed), 0, stray=1) for seed, n in enumerate((100, 50))]
    kept = confident(near(0.97, 900, 3), 1, stray=0)
    return subject(sure[0], kept, both(sure[1], kept.take(torch.arange(100))))


def test_the_features_are_known() -> None:
    answer = logits(torch.tensor([[0.0, 0, 0, 0], [1e4, 0, 0, 0], [1.0, 2, 3, 4]]), (2, 0, 3))
    p = [math.exp(x) / sum(map(math.exp, (1, 2, 3, 4))) for x in (1, 2, 3, 4)]
    torch.testing.assert_close(confidence(answer), torch.tensor([0.25, 1, p[3]]).double())
    h = -sum(x * math.log(x) for x in p)
    torch.testing.assert_close(entropy(answer), torch.tensor([math.log(4), 0, h]).double())


@pytest.mark.parametrize("attack", [mia_svc, mia_svc_balanced])
def test_test_images_of_a_retrained_network_are_called_non_members(
    attack: Callable[[Subject, Case], Measure],
) -> None:
    found = attack(retrained(), asked(FIRST))
    assert (found.value, found.n) == (1.0, 50)  # of the test images of class 0 alone
    assert found.ci95 is not None
    assert found.note == "attack fitted on 900 members and 100 non-members"


def test_test_images_of_the_original_are_called_members() -> None:
    assert mia_svc(original(), asked(FIRST)).value == 0


@pytest.mark.parametrize(("damage", "score"), [(0.05, 1), (0.10, 1), (0.12, 0), (0.20, 0)])
def test_the_majority_decides_unless_both_kinds_weigh_the_same(damage: float, score: int) -> None:
    # 9 retained images a forgotten one: from 1/9 on, most images without confidence are retained
    network = retrained(damage)
    assert mia_svc(network, asked(FIRST)).value == pytest.approx(score, abs=0.1)
    assert mia_svc_balanced(network, asked(FIRST)).value == pytest.approx(1, abs=0.1)


def test_the_ratio_of_the_data_is_restored_from_a_sample() -> None:
    # the sample has 2 members a non-member: no flip; the data has 9
    network = retrained(0.2)
    kept = torch.arange(900) % 9 >= 7  # 200 of them, some of the lost ones too
    thinned = replace(
        network, observed=replace(network.observed, retain=network.observed.retain.take(kept))
    )
    plain, restored = (mia_svc(thinned, asked(FIRST), ratio=r) for r in (None, 9.0))
    assert plain.note == "attack fitted on 200 members and 100 non-members"
    assert restored.note == "attack fitted on 200 members and 22 non-members"
    assert plain.value == pytest.approx(1, abs=0.1)
    assert restored.value == pytest.approx(0, abs=0.1)
    fewer = mia_svc(thinned, asked(FIRST), ratio=0.5)
    assert fewer.note == "attack fitted on 50 members and 100 non-members"


def test_many_images_are_thinned_out_in_proportion() -> None:
    found = mia_svc(retrained(forget=800), asked(FIRST))
    assert found.note == "attack fitted on 5000 members and 556 non-members"
    assert found == mia_svc(retrained(forget=800), asked(FIRST))
    assert found.value == 1


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="mia_svc: ratio must be a number above 0, got"):
        mia_svc(retrained(), asked(FIRST), ratio=ratio)


def spread(heat: float, n: int, label: int, seed: int) -> Answers:
    """Return answers of classes 1 to 3, the more even the larger `heat` is."""
    answer = torch.full((n, 4), -40.0)
    answer[:, 1:] = noise(n, 3, seed=seed) * 0.3 + torch.tensor([3.0, 0, 0]) / heat
    return logits(answer, torch.full((n,), label))


def seen(forget: float, retain: float, test: float, forgotten_test: float) -> Subject:
    """Return a network of this heat on each set, a quarter of the test images of class 0."""
    return subject(
        spread(forget, 60, 0, 1),
        spread(retain, 300, 1, 2),
        both(spread(test, 150, 1, 3), spread(forgotten_test, 50, 0, 4)),
    )


@pytest.mark.parametrize(
    ("network", "score"),
    [
        (seen(forget=0.3, retain=0.3, test=2.0, forgotten_test=2.0), 1),
        (seen(forget=2.0, retain=0.3, test=2.0, forgotten_test=2.0), 0),
        (seen(forget=0.3, retain=2.0, test=0.3, forgotten_test=2.0), 0),  # a test that is easier
    ],
)
def test_images_as_sure_as_members_are_called_members(network: Subject, score: int) -> None:
    found = mia_entropy(network, asked(FIRST))
    assert found.value == pytest.approx(score, abs=0.05)
    assert (found.n, found.note) == (60, "attack fitted on 300 members and 150 non-members")


def test_forgotten_test_images_teach_the_entropy_attack_nothing() -> None:
    one, other = (seen(0.3, 0.3, 2.0, forgotten_test=heat) for heat in (0.3, 2.0))
    assert mia_entropy(one, asked(FIRST)) == mia_entropy(other, asked(FIRST))


def test_of_single_images_all_test_images_are_non_members() -> None:
    found = mia_entropy(seen(2.0, 0.3, 2.0, 2.0), asked(INSTANCES))
    assert found.value == pytest.approx(0, abs=0.05)
    assert found.note == "attack fitted on 300 members and 200 non-members"


def test_the_entropy_attack_weighs_both_kinds_the_same() -> None:
    # nine members for each other image, and half of them as unsure as those
    network = subject(
        spread(2.0, 40, 0, 1),
        both(spread(0.3, 450, 1, 2), spread(2.0, 450, 1, 3)),
        both(spread(2.0, 100, 1, 4), spread(2.0, 20, 0, 5)),
    )
    assert mia_entropy(network, asked(FIRST)).value < 0.2


def test_at_most_so_many_entropies_are_learnt_from_drawn_at_random() -> None:
    # the first of the members are as unsure as others, three in four of all are not
    network = seen(2.0, 0.3, 2.0, 2.0)
    retain = both(spread(2.0, 2500, 1, 8), spread(0.3, 7500, 1, 9))
    many = replace(network, observed=replace(network.observed, retain=retain))
    found = mia_entropy(many, asked(FIRST))
    assert found.value < 0.1
    assert found.note == "attack fitted on 2500 members and 150 non-members"
    assert found == mia_entropy(many, asked(FIRST))


@pytest.mark.parametrize("attack", [mia_svc, mia_svc_balanced])
def test_attacks_on_confidence_are_not_defined_for_single_images(
    attack: Callable[[Subject, Case], Measure],
) -> None:
    with pytest.raises(InputError, match=r"is defined for forgotten classes, got .* 2 single"):
        attack(retrained(), asked(INSTANCES))


@pytest.mark.parametrize("part", ["forget", "retain", "test"])
def test_missing_images_are_refused(part: str) -> None:
    network = retrained()
    empty = replace(network, observed=replace(network.observed, **{part: said("")}))
    with pytest.raises(InputError, match=r"mia_svc: needs .*got none"):
        mia_svc(empty, asked(FIRST))
    with pytest.raises(InputError, match=r"mia_entropy: needs .*got none"):
        mia_entropy(empty, asked(FIRST))
