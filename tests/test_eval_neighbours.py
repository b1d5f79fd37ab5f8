"""What neighbouring classes tell, on answers drawn from known distributions."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.neighbours import auc, cmia_auc, neighbour_auc, neighbour_tv
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.request import ForgetRequest
from tests.networks import noise
from tests.test_eval_accuracies import asked, logits, said, subject

FIRST = ForgetRequest(classes=(0,))
TWO = ForgetRequest(classes=(0, 3))
INSTANCES = ForgetRequest(instances=(2, 5))
PAIRED = (neighbour_tv, neighbour_auc)


def all_of(answer: Tensor, label: int = 0) -> Answers:
    return logits(answer, torch.full((len(answer),), label))


def together(*parts: Answers) -> Answers:
    columns = zip(*((part.logits, part.labels) for part in parts), strict=True)
    return logits(*(torch.cat(column) for column in columns))


def network(forget: Answers, test: Answers) -> Subject:
    return subject(forget, said("1>1"), together(test, said("1>1 2>2")))


def shifted(n: int, shift: float, seed: int) -> Tensor:
    """Return logits whose class 1 is `shift` above class 2, give or take 1; 3 plays no part."""
    answer = torch.zeros(n, 4)
    answer[:, 1] = shift + noise(n, seed=seed)
    answer[:, 3] = -9
    return answer


def drawn(n: int, m: int, shift: float, seed: int = 0) -> Subject:
    """Return a network that shifts the `n` members, and not the `m` test images, of class 0."""
    members, test = shifted(n, shift, 2 * seed), shifted(m, 0, 2 * seed + 1)
    return network(all_of(members), all_of(test))


def test_area_is_the_share_of_pairs_in_order() -> None:
    score = noise(40).mul(3).round()  # with ties
    target, stratum = noise(40, seed=1) > 0, torch.arange(40) % 3
    pairs = [
        (score[i] > score[j]) + 0.5 * (score[i] == score[j])
        for i in range(40)
        for j in range(40)
        if target[i] and not target[j] and stratum[i] == stratum[j]
    ]
    assert auc(score, target, stratum) == pytest.approx(float(sum(pairs)) / len(pairs), abs=1e-12)
    assert auc(-score, target, stratum) == pytest.approx(1 - auc(score, target, stratum), abs=1e-12)


def test_area_without_pairs_is_not_a_number() -> None:
    assert math.isnan(auc(torch.zeros(4), torch.ones(4) > 0, torch.zeros(4).long()))
    apart = torch.tensor([True, False])
    assert math.isnan(auc(torch.zeros(2), apart, torch.tensor([0, 1])))


@pytest.mark.parametrize("shift", [0.5, -1.0, 2.0])
def test_members_are_told_as_well_as_two_gaussians_can_be(shift: float) -> None:
    found = cmia_auc(drawn(2000, 1000, shift), asked(FIRST))
    wanted = (1 + math.erf(abs(shift) / 2)) / 2  # Phi(shift / sqrt 2)
    assert found.value == pytest.approx(wanted, abs=0.025)
    assert found.n == 3000
    assert found.ci95 is not None
    assert found.ci95[0] < found.value < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < 0.06


def test_members_are_told_by_how_sure_answers_are_whichever_class_they_name() -> None:
    # three probabilities whose logarithms have the same sum; members are surer of the first
    def named_at_random(row: tuple[float, ...], n: int, seed: int) -> Answers:
        order = noise(n, 3, seed=seed).argsort(1)
        answer = (torch.tensor(row) + 0.5 * noise(n, 3, seed=seed + 1)).gather(1, order)
        return all_of(torch.cat((torch.zeros(n, 1), answer), 1))

    members = named_at_random((0, -3.0, -3.0), 400, 0)
    test = named_at_random((0, -1.0, -4.34), 300, 5)
    assert cmia_auc(network(members, test), asked(FIRST)).value > 0.9


def test_members_are_told_by_which_class_answers_name_however_sure() -> None:
    members, test = (noise(n, 4, seed=n) for n in (400, 300))
    members[:, 1] += 3
    test[:, 2] += 3
    assert cmia_auc(network(all_of(members), all_of(test)), asked(FIRST)).value > 0.9


def test_what_was_drawn_alike_is_told_by_chance_alone() -> None:
    # few images and many classes: a classifier that is asked what it has learnt would be at 1
    found = []
    for seed in range(6):
        answers = [all_of(noise(40, 30, seed=2 * seed + i)) for i in range(2)]
        nobody = all_of(torch.zeros(1, 30), 1)
        one = subject(answers[0], nobody, together(answers[1], nobody))
        found.append(cmia_auc(one, asked(FIRST, seed)).value)
    assert sum(found) / 6 == pytest.approx(0.5, abs=0.12)


def unbalanced(shift: float) -> Subject:
    """Return a network that sends class 0 to 1 and class 3 to 2, members `shift` more to 1.

    Nine in ten members are of class 0, of the test images one in ten.
    """
    parts = [
        all_of(shifted(n, where + more, seed), label)
        for seed, (n, where, more, label) in enumerate(
            [(450, 3, shift, 0), (50, -3, shift, 3), (50, 3, 0, 0), (450, -3, 0, 3)]
        )
    ]
    return network(together(*parts[:2]), together(*parts[2:]))


def test_classes_of_other_size_in_the_test_set_give_nothing_away() -> None:
    found = cmia_auc(unbalanced(0), asked(TWO))  # 0.9 by the class alone
    assert found.value == pytest.approx(0.5, abs=0.1)


def test_classes_of_other_size_do_not_turn_the_attack_around() -> None:
    # members are sent less to 1 than test images of their class, but more than test images at large
    assert cmia_auc(unbalanced(-1), asked(TWO)).value > 0.6


def test_the_logit_of_the_forgotten_class_plays_no_part() -> None:
    plain = drawn(100, 60, 1.0)

    def masked(answers: Answers) -> Answers:
        return replace(answers, logits=answers.logits.index_fill(1, torch.tensor([0]), -1e4))

    seen = plain.observed
    hidden = replace(
        plain, observed=replace(seen, forget=masked(seen.forget), test=masked(seen.test))
    )
    assert cmia_auc(hidden, asked(FIRST)) == cmia_auc(plain, asked(FIRST))
    assert neighbour_tv(hidden, plain, asked(FIRST)).value == 0
    assert neighbour_auc(hidden, plain, asked(FIRST)).value == 0.5


def test_figures_follow_the_seed() -> None:
    one = drawn(60, 40, 1.0)
    assert cmia_auc(one, asked(FIRST, 3)) == cmia_auc(one, asked(FIRST, 3))
    assert cmia_auc(one, asked(FIRST, 3)).value != cmia_auc(one, asked(FIRST, 4)).value


def test_a_few_images_far_off_hide_nothing() -> None:
    plain = drawn(200, 200, 2.0)
    forget = plain.observed.forget.logits.clone()
    forget[:3, 1:] = -1e9 * (1 - torch.eye(3))
    far = replace(plain, observed=replace(plain.observed, forget=all_of(forget)))
    both = [cmia_auc(one, asked(FIRST)).value for one in (plain, far)]
    assert both[1] == pytest.approx(both[0], abs=0.02)


def sending(shares: tuple[float, ...], n: int = 20, label: int = 0) -> Answers:
    """Return answers that give these probabilities to each image."""
    return all_of(torch.tensor(shares).clamp(min=1e-30).log().repeat(n, 1), label)


def of_test(*parts: Answers) -> Subject:
    return network(said("0>1"), together(*parts))


@pytest.mark.parametrize(
    ("ours", "theirs", "distance"),
    [
        ((0.5, 0.5, 0, 0), (0.2, 0, 0.8, 0), 1),
        ((0.5, 0.5, 0, 0), (0.2, 0.8, 0, 0), 0),  # the forgotten class is left out
        ((0, 0.7, 0.2, 0.1), (0, 0.1, 0.2, 0.7), 0.6),
        ((0.5, 0.35, 0.1, 0.05), (0.9, 0.01, 0.02, 0.07), 0.6),
    ],
)
def test_distance_of_known_probabilities_is_known(
    ours: tuple[float, ...], theirs: tuple[float, ...], distance: float
) -> None:
    one, other = of_test(sending(ours)), of_test(sending(theirs))
    for found in (neighbour_tv(one, other, asked(FIRST)), neighbour_tv(other, one, asked(FIRST))):
        assert found.value == pytest.approx(distance, abs=1e-6)
        assert found.n == 20
        assert found.ci95 == pytest.approx((distance, distance), abs=1e-6)


def test_distance_is_of_means_and_not_a_mean_of_distances() -> None:
    one = of_test(sending((0, 1, 0, 0), 10), sending((0, 0, 1, 0), 10))
    other = of_test(sending((0, 0, 1, 0), 10), sending((0, 1, 0, 0), 10))
    assert neighbour_tv(one, other, asked(FIRST)).value == pytest.approx(0, abs=1e-9)


def test_several_classes_do_not_make_up_for_each_other() -> None:
    one = of_test(sending((0, 1, 0, 0), 30), sending((0, 0, 1, 0), 10, label=3))
    other = of_test(sending((0, 0, 1, 0), 30), sending((0, 0.5, 0.5, 0), 10, label=3))
    found = neighbour_tv(one, other, asked(TWO))
    assert found.value == pytest.approx((30 * 1 + 10 * 0.5) / 40, abs=1e-6)
    assert found.n == 40


def answering(answer: Tensor) -> Subject:
    return network(said("0>1"), all_of(answer))


def test_equal_networks_are_not_told_apart() -> None:
    one = answering(noise(60, 4))
    found = neighbour_auc(one, one, asked(FIRST))
    assert (found.value, found.n) == (0.5, 60)
    assert found.ci95 == (0.5, 0.5)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_networks_are_told_apart_as_two_gaussians_can_be(shift: float) -> None:
    one, other = answering(shifted(1500, shift, 0)), answering(shifted(1500, 0, 1))
    found = neighbour_auc(one, other, asked(FIRST))
    assert found.value == pytest.approx((1 + math.erf(shift / 2)) / 2, abs=0.03)
    assert found.n == 1500
    assert found.ci95 is not None
    assert found.ci95[0] < found.value < found.ci95[1]


def test_networks_drawn_alike_are_told_by_chance_alone() -> None:
    found = []
    for seed in range(6):
        one, other = (
            subject(said(""), said(""), all_of(noise(40, 30, seed=2 * seed + i))) for i in range(2)
        )
        found.append(neighbour_auc(one, other, asked(FIRST, seed)).value)
    assert sum(found) / 6 == pytest.approx(0.5, abs=0.12)


def test_single_images_have_no_neighbouring_classes() -> None:
    one = drawn(20, 20, 0.0)
    with pytest.raises(InputError, match="cmia_auc: is defined for forgotten classes"):
        cmia_auc(one, asked(INSTANCES))
    for metric in PAIRED:
        with pytest.raises(InputError, match=f"{metric.__name__}: is defined for forgotten"):
            metric(one, one, asked(INSTANCES))


def test_one_class_that_stays_says_nothing() -> None:
    one = network(all_of(noise(20, 4)), all_of(noise(20, 4)))
    most = asked(ForgetRequest(classes=(0, 1, 2)))
    with pytest.raises(InputError, match="cmia_auc: needs two classes that stay, got 1 of 4"):
        cmia_auc(one, most)
    for metric in PAIRED:
        with pytest.raises(InputError, match="needs two classes that stay, got 1 of 4"):
            metric(one, one, most)


@pytest.mark.parametrize(("members", "test"), [(9, 50), (50, 9)])
def test_too_few_images_are_refused(members: int, test: int) -> None:
    few = drawn(members, test, 0.0)
    with pytest.raises(InputError, match=r"cmia_auc: needs 10 images to forget .*, got 9"):
        cmia_auc(few, asked(FIRST))


def test_too_few_images_of_each_class_are_refused() -> None:
    # one image a class: none has another of its class in its fold
    members = logits(noise(10, 13), torch.arange(1, 11))
    one = subject(members, said("1>1"), logits(noise(11, 13, seed=1), torch.arange(11)))
    with pytest.raises(InputError, match="cmia_auc: needs 5 images of a forgotten class"):
        cmia_auc(one, asked(ForgetRequest(classes=tuple(range(11)))))


@pytest.mark.parametrize("metric", PAIRED)
def test_networks_that_answered_other_images_are_not_compared(
    metric: Callable[[Subject, Subject, Case], Measure],
) -> None:
    one, other = answering(noise(20, 4)), answering(noise(21, 4))
    with pytest.raises(InputError, match="compares two networks on the same images"):
        metric(one, other, asked(FIRST))
