"""Relearn time on a small network: what is counted, what is trained on, and where it starts."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bandstop.edit.baselines.logit_mask import LogitMask
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit, edited
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.observed import Case, Subject, case_of, observe
from bandstop.edit.evaluation.relearn import (
    Relearned,
    attackable,
    forgotten_answers,
    forgotten_images,
    relearn_epochs,
)
from bandstop.edit.head import head_of
from bandstop.edit.images import ImageSet
from bandstop.edit.method import split
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import CLASS, DATA, INSTANCES, learnt, state
from tests.networks import Recorder, corners

CASE = case_of(DATA, CLASS)
nothing_learnt = functools.partial(relearn_epochs, lr=1e-9, head_lr=1e-9)
slowly = functools.partial(relearn_epochs, images=60, head_lr=2e-3)  # tells epochs apart


@functools.cache
def original() -> Subject:
    return subject(fold_batchnorm(learnt()))


def subject(model: Classifier, case: Case = CASE, name: str = "edited") -> Subject:
    return Subject(name, model, observe(model, case))


def turned_away(*classes: int) -> Classifier:
    """Return a network whose head points away from `classes`."""
    model = original().model
    name, head = head_of(model)
    weight = head.weight.detach().clone()
    weight[list(classes)] *= -0.5
    return edited(model, WeightEdit({f"{name}.weight": weight}))


@functools.cache
def relearnt() -> Relearned:
    return slowly(subject(turned_away(2)), original(), DATA.train, CASE)


def test_what_was_not_forgotten_needs_no_epoch() -> None:
    found = relearn_epochs(original(), original(), DATA.train, CASE)
    assert (found.measure.value, found.measure.note) == (0, "known without training")
    assert found.curve == (1.0,)


def test_epochs_are_counted_until_the_accuracy_of_the_original_is_back() -> None:
    found = relearnt()
    assert found.goal == 1.0
    assert found.curve[0] == 0.0
    assert all(accuracy < 1 for accuracy in found.curve[:-1])
    assert found.curve[-1] == 1.0
    assert 2 < found.measure.value < 20  # so that the cap below can be one less
    assert found.measure.value == len(found.curve) - 1
    assert (found.measure.ci95, found.measure.n, found.measure.note) == (None, 1, "")


@pytest.mark.parametrize(("less", "note"), [(0, ""), (1, "not relearned within {} epochs")])
def test_success_in_the_last_epoch_is_success(less: int, note: str) -> None:
    cap = int(relearnt().measure.value) - less
    found = slowly(subject(turned_away(2)), original(), DATA.train, CASE, cap=cap)
    assert found.measure.value == cap
    assert found.measure.note == note.format(cap)
    assert found.curve == relearnt().curve[: cap + 1]


def test_the_tolerance_lowers_the_goal() -> None:
    found = slowly(
        subject(turned_away(2)), original(), DATA.train, CASE, tolerance=relearnt().goal / 2
    )
    first = next(i for i, accuracy in enumerate(relearnt().curve) if accuracy >= 0.5)
    assert found.goal == 0.5
    assert found.measure.value == first < relearnt().measure.value


def test_the_goal_is_the_accuracy_of_the_original_not_all() -> None:
    # an original that knows nothing of the class sets a goal that is reached at once
    ignorant = subject(turned_away(2), name="original")
    found = relearn_epochs(subject(turned_away(2)), ignorant, DATA.train, CASE)
    assert (found.goal, found.measure.value) == (0.0, 0)


def test_the_network_stays_as_it_was_and_the_same_seed_gives_the_same_curve() -> None:
    attacked = subject(turned_away(2))
    before = state(attacked.model)
    assert slowly(attacked, original(), DATA.train, CASE) == relearnt()
    after = state(attacked.model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(p.grad is not None for p in attacked.model.parameters())
    other = slowly(attacked, original(), DATA.train, replace(CASE, seed=5))
    assert other.curve != relearnt().curve


def test_each_epoch_shows_fresh_images_of_all_classes() -> None:
    source = corners(200)
    assert isinstance(source.images, Tensor)
    store = Recorder(source.images)
    train = ImageSet(store, source.index, source.labels)
    case = replace(CASE, test=train.take(torch.arange(40)))
    attacked = subject(turned_away(2))
    nothing_learnt(attacked, original(), train, case, cap=3, images=80, batch=32)
    # ten test images are asked before the first epoch and after each
    assert [len(index) for index in store.read] == [10, *[32, 32, 16, 10] * 3]
    epochs = [torch.cat(store.read[i : i + 3]) for i in (1, 5, 9)]
    for index in epochs:
        assert len(index.unique()) == 80
        # 20 of each are expected
        counts = source.labels[index].bincount(minlength=4)
        assert bool((counts > 8).all())
        assert bool((counts < 34).all())
    assert not torch.equal(epochs[0].sort().values, epochs[1].sort().values)
    assert not torch.equal(epochs[1].sort().values, epochs[2].sort().values)


def test_forgotten_images_are_asked_themselves() -> None:
    case = case_of(DATA, INSTANCES)
    model = turned_away(2)  # 2 and 6 of the instances are of class 2
    found = relearn_epochs(
        subject(model, case), subject(original().model, case), DATA.train, case, cap=1, lr=1e-9
    )
    assert found.goal == 1.0
    assert found.curve == (0.5, 0.5)


def test_the_images_of_several_classes_are_pooled() -> None:
    # of class 2, which the head turned away from, 4 test images; of class 3 all 10
    some = torch.ones(len(DATA.test), dtype=torch.bool)
    some[torch.nonzero(DATA.test.labels == 2)[4:, 0]] = False
    data = replace(DATA, test=DATA.test.take(some))
    case = case_of(data, ForgetRequest(classes=(2, 3)))
    one, two = subject(turned_away(2), case), subject(original().model, case)
    assert len(forgotten_images(case)) == len(forgotten_answers(one, case)) == 14
    found = nothing_learnt(one, two, DATA.train, case, cap=1)
    assert found.curve[0] == pytest.approx(10 / 14)


def test_a_hidden_class_comes_back_into_reach() -> None:
    model = original().model
    hidden = edited(model, LogitMask()(model, CLASS, split(DATA, CLASS)))
    start = attackable(hidden, (2,))
    bias, before = head_of(start)[1].bias, head_of(hidden)[1].bias
    others = [0, 1, 3]
    assert before[2] == -1e4
    assert bias[2] == before[others].min()
    assert torch.equal(bias[others], before[others])
    found = relearn_epochs(subject(hidden), original(), DATA.train, CASE, cap=30)
    assert found.measure.note == ""


@pytest.mark.parametrize(("lr", "head_lr", "back"), [(1e-9, 1e-2, True), (1e-4, 1e-9, False)])
def test_a_head_that_hides_a_class_is_turned_by_its_own_rate(
    lr: float, head_lr: float, back: bool
) -> None:
    attacked = subject(turned_away(2))
    found = relearn_epochs(attacked, original(), DATA.train, CASE, cap=15, lr=lr, head_lr=head_lr)
    assert (found.measure.note == "") == back


def test_a_bias_that_is_no_lower_than_the_others_stays() -> None:
    model = attackable(original().model, ())
    head = head_of(model)[1]
    head.bias.data = torch.tensor([0.1, -0.4, 0.3, 0.2])
    assert torch.equal(head_of(attackable(model, (0,)))[1].bias, head.bias)
    assert torch.equal(head_of(attackable(model, ()))[1].bias, head.bias)
    lifted = head_of(attackable(model, (1, 3)))[1].bias
    torch.testing.assert_close(lifted, torch.tensor([0.1, 0.1, 0.3, 0.2]))


def test_every_parameter_can_learn_in_an_attack() -> None:
    frozen = attackable(original().model, ()).requires_grad_(False)
    assert all(p.requires_grad for p in attackable(frozen, (2,)).parameters())
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cap": 0}, "cap, images and batch must be 1 or more"),
        ({"images": 0}, "got 20, 0, 50 and 0.0"),
        ({"batch": 0}, "got 20, 500, 0"),
        ({"tolerance": -0.1}, "tolerance from 0 to below 1"),
        ({"train": DATA.train.without_classes([2])}, "the 150 training images lack some"),
        ({"case": replace(CASE, test=DATA.test.without_classes([2]))}, "no test image of the cl"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, Any], message: str) -> None:
    given = {"train": DATA.train, "case": CASE, **settings}
    with pytest.raises(InputError, match=message):
        relearn_epochs(original(), original(), **given)
