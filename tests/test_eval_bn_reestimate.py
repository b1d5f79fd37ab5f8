"""New BatchNorm statistics: what they bring back, and what they do to everything else.

The case that must be red: masks before a BatchNorm hide a class from nobody who has 256 images.
"""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.bn_reestimate import bn_reestimate_acc, reestimated
from bandstop.edit.evaluation.observed import case_of
from bandstop.edit.images import ImageSet
from bandstop.edit.train import Recipe, train, without_classes
from tests.baseline_toys import DATA, INSTANCES, learnt, state
from tests.masked_batchnorm import CASE, OTHERS, accuracies, masked
from tests.networks import Recorder, classifier, corners


def test_masks_before_batchnorm_are_undone_by_unlabelled_images_of_other_classes() -> None:
    hidden = masked("frozen")
    forgotten, retained = accuracies(hidden)
    assert forgotten <= 0.05
    assert retained > 0.8
    found = bn_reestimate_acc(hidden, OTHERS, CASE)
    assert found.value > 0.9
    assert (found.n, found.note) == (100, "")
    low, high = found.ci95 or (1.0, 0.0)
    assert low < found.value <= high


@pytest.mark.parametrize("bn", ["fold", "frozen"])
def test_once_folded_there_is_nothing_to_take_anew(bn: Literal["fold", "frozen"]) -> None:
    folded = masked(bn) if bn == "fold" else fold_batchnorm(masked(bn))
    assert accuracies(folded)[0] <= 0.05
    found = bn_reestimate_acc(folded, OTHERS, CASE)
    assert found.value == accuracies(folded)[0]
    assert found.note == "no BatchNorm left"
    assert found.ci95 is not None


def test_a_class_that_was_never_seen_does_not_come_back() -> None:
    recipe = Recipe(epochs=6, batch=20, lr=0.1, label_smoothing=0, shift=0, flip=False)
    retrained = train(learnt().arch, without_classes(DATA, (2,)), recipe, seed=1)
    assert bn_reestimate_acc(retrained, OTHERS, CASE).value == 0.0


def test_labels_do_not_matter_and_the_same_seed_gives_the_same_number() -> None:
    hidden = masked("frozen")
    blind = replace(OTHERS, labels=torch.zeros_like(OTHERS.labels))
    found = [bn_reestimate_acc(hidden, images, CASE) for images in (OTHERS, blind, OTHERS)]
    assert found[0] == found[1] == found[2]


def test_the_network_stays_as_it_was() -> None:
    hidden = masked("frozen")
    before = state(hidden)
    bn_reestimate_acc(hidden, OTHERS, CASE)
    assert all(torch.equal(value, before[name]) for name, value in state(hidden).items())
    assert not any(module.training for module in hidden.modules())


def test_so_many_images_are_looked_at_as_asked() -> None:
    assert isinstance(OTHERS.images, Tensor)
    for count, settings in ((256, {}), (100, {"images": 100})):
        store = Recorder(OTHERS.images)
        images = ImageSet(store, OTHERS.index, OTHERS.labels)
        bn_reestimate_acc(masked("frozen"), images, CASE, **settings)
        assert len(torch.cat(store.read).unique()) == count


class Norms(nn.Module):
    """A BatchNorm of pixels with strange statistics, dropout, and a BatchNorm that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.norm = nn.BatchNorm1d(64)
        self.drop = nn.Dropout(0.9)
        self.fc = nn.Linear(64, 4)
        nn.init.constant_(self.norm.running_mean, 50.0)  # type: ignore[arg-type]  # tracked, so a tensor
        nn.init.constant_(self.norm.running_var, 70.0)  # type: ignore[arg-type]  # same

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.drop(self.norm(self.flat(x))))
        return logits


def pixels(model: Classifier, images: ImageSet) -> Tensor:
    image, _ = next(images.batches(len(images)))
    return ((image - model.mean) / model.std).flatten(1)


@pytest.mark.parametrize("count", [2, 60, 64, 128, 65, 256])
def test_statistics_are_plain_averages_over_batches(count: int) -> None:
    model, images = classifier(Norms()), corners(count)
    norm = reestimated(model, images).network.get_submodule("norm")
    parts = pixels(model, images).tensor_split(-(-count // 64))
    torch.testing.assert_close(norm.running_mean, torch.stack([p.mean(0) for p in parts]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([p.var(0) for p in parts]).mean(0))


def test_all_other_modules_stay_in_evaluation_and_no_parameter_changes() -> None:
    model = classifier(Norms())
    model.network.train()
    attacked = reestimated(model, corners(70))
    assert not any(module.training for module in attacked.modules())
    for name, value in model.network.named_parameters():
        assert torch.equal(attacked.network.get_parameter(name), value)
        assert value.grad is None


class Dropped(nn.Module):
    """A BatchNorm behind dropout, which must be off while statistics are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(64), nn.Linear(64, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def test_dropout_is_off_while_statistics_are_taken() -> None:
    model, images = classifier(Dropped()), corners(60)
    norm = reestimated(model, images).network.get_submodule("layers.2")
    torch.testing.assert_close(norm.running_var, pixels(model, images).var(0))


def test_forgotten_images_are_asked_themselves() -> None:
    case = case_of(DATA, INSTANCES)
    found = bn_reestimate_acc(learnt(), OTHERS, case)
    assert (found.value, found.n) == (1.0, len(INSTANCES.instances))
    with pytest.raises(InputError, match="got 200 with 4"):
        bn_reestimate_acc(learnt(), DATA.train, case)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (corners(400), "got 400 with 100"),
        (OTHERS.take(torch.arange(0)), "got 0 with 0"),
        (OTHERS.take(torch.arange(1)), "2 images or more, got 1"),
    ],
)
def test_images_that_must_not_or_cannot_be_used_are_refused(images: ImageSet, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bn_reestimate_acc(learnt(), images, CASE)


def test_a_case_without_test_images_is_refused() -> None:
    case = replace(CASE, test=CASE.test.without_classes([2]))
    with pytest.raises(InputError, match="no test image of the classes"):
        bn_reestimate_acc(learnt(), OTHERS, case)
