"""Training on retained images alone: what returns, what does not, and what it may see."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.accuracy import logits
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit, edited
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import share
from bandstop.edit.evaluation.observed import Case, Subject, case_of, observe
from bandstop.edit.evaluation.retain_tune import check_retained, retain_tune_acc
from bandstop.edit.head import head_of
from bandstop.edit.images import ImageSet
from bandstop.edit.train import Recipe, train, without_classes
from tests.baseline_toys import CLASS, DATA, INSTANCES, learnt, state
from tests.networks import Recorder, classifier, corners

CASE = case_of(DATA, CLASS)
RETAIN = DATA.train.without_classes([2])


def subject(model: Classifier, case: Case = CASE) -> Subject:
    return Subject("edited", model, observe(model, case))


@functools.cache
def dimmed() -> Classifier:
    """Return a network that misses class 2 because its first layer lets too much through."""
    model = fold_batchnorm(learnt())
    bias = model.network.state_dict()["conv1.bias"]
    return edited(model, WeightEdit({"conv1.bias": bias + 0.6}))


@functools.cache
def retrained() -> Classifier:
    recipe = Recipe(epochs=6, batch=20, lr=0.1, label_smoothing=0, shift=0, flip=False)
    return fold_batchnorm(train(learnt().arch, without_classes(DATA, (2,)), recipe, seed=1))


def test_a_class_that_was_only_disturbed_returns_without_one_of_its_images() -> None:
    assert share_right(dimmed()) == 0.0
    found = retain_tune_acc(subject(dimmed()), RETAIN, CASE, batch=16, lr=1e-3)
    assert found.value > 0.8
    assert found == share(round(found.value * 10), 10)


def test_a_class_that_was_never_seen_does_not() -> None:
    found = retain_tune_acc(subject(retrained()), RETAIN, CASE, epochs=3, batch=16, lr=1e-3)
    assert (found.value, found.n) == (0.0, 10)


def share_right(model: Classifier) -> float:
    images = CASE.test.of_classes([2])
    return float((logits(model, images).argmax(1) == 2).double().mean())


@pytest.mark.parametrize("lift", [0.0, 0.2])
def test_without_training_the_accuracy_on_the_forgotten_is_what_it_was(lift: float) -> None:
    model = fold_batchnorm(learnt())
    bias = model.network.state_dict()["conv1.bias"]
    model = edited(model, WeightEdit({"conv1.bias": bias + lift}))
    found = retain_tune_acc(subject(model), RETAIN, CASE, lr=1e-12)
    assert found.value == pytest.approx(share_right(model))
    assert found.n == 10


def test_a_bias_that_hides_a_class_hides_nothing_from_an_attacker() -> None:
    model = fold_batchnorm(learnt())
    name, head = head_of(model)
    bias = head.bias.detach().clone()
    bias[2] = -1e4
    hidden = edited(model, WeightEdit({f"{name}.bias": bias}))
    assert share_right(hidden) == 0
    assert retain_tune_acc(subject(hidden), RETAIN, CASE, lr=1e-12).value == 1.0


def test_forgotten_images_are_asked_themselves() -> None:
    case = case_of(DATA, INSTANCES)
    stay = ~torch.isin(DATA.train.index, case.forget.index)
    found = retain_tune_acc(subject(fold_batchnorm(learnt()), case), DATA.train.take(stay), case)
    assert (found.value, found.n) == (1.0, len(INSTANCES.instances))


def test_the_network_stays_as_it_was_and_the_same_seed_gives_the_same_number() -> None:
    attacked = subject(dimmed())
    before = state(attacked.model)
    one, two = (retain_tune_acc(attacked, RETAIN, CASE, batch=16) for _ in range(2))
    assert one == two
    after = state(attacked.model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"batch": 50}, [50, 50, 50]),
        ({"batch": 50, "epochs": 2}, [50] * 6),
        ({"batch": 50, "most": 100}, [50, 50]),
        ({"most": 70}, [70]),
    ],
)
def test_so_many_retained_images_are_seen_as_asked(
    settings: dict[str, Any], sizes: list[int]
) -> None:
    source = corners(200)
    assert isinstance(source.images, Tensor)
    store = Recorder(source.images)
    whole = ImageSet(store, source.index, source.labels)
    retain_tune_acc(subject(dimmed()), whole.without_classes([2]), CASE, **settings)
    assert [len(index) for index in store.read] == sizes
    seen = torch.cat(store.read)
    assert not bool((source.labels[seen] == 2).any())
    assert len(seen.unique()) == min(len(seen), settings.get("most", 150), 150)


class Strict(nn.Module):
    """A network that refuses pictures that are not all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert torch.equal(x, x[:1].expand_as(x)), "a picture was moved"
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def test_pictures_are_shown_as_they_are() -> None:
    source = corners(40)
    assert isinstance(source.images, Tensor)
    same = replace(source, images=source.images[:1].expand(40, -1, -1, -1))
    case = case_of(replace(DATA, train=same, validate=same, test=same), CLASS)
    retain_tune_acc(subject(classifier(Strict()), case), same.without_classes([2]), case)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retain": DATA.train}, "got 200 with 50"),
        ({"retain": RETAIN.take(torch.arange(0))}, "got 0 with 0"),
        ({"epochs": 0}, "must be 1 or more, got 0, 5000, 128"),
        ({"most": 0}, "must be 1 or more, got 1, 0, 128"),
        ({"case": replace(CASE, test=DATA.test.without_classes([2]))}, "no test image of the cl"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, Any], message: str) -> None:
    given = {"retain": RETAIN, "case": CASE, **settings}
    with pytest.raises(InputError, match=message):
        retain_tune_acc(subject(dimmed()), **given)


def test_single_forgotten_images_are_known_by_their_number_in_the_same_store() -> None:
    case = case_of(DATA, INSTANCES)
    with pytest.raises(InputError, match="got 200 with 4"):
        check_retained(DATA.train, case)
    check_retained(corners(40, seed=9), case)  # others, with the same numbers
