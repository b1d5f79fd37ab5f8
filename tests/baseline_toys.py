"""A small network that knows four corners, for the tests of the baselines."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bandstop.edit.accuracy import logits
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import Edit, WeightEdit, edited
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.journal import Journal, State
from bandstop.edit.method import Method, Splits, split
from bandstop.edit.request import ForgetRequest
from bandstop.edit.train import Recipe, train
from tests.networks import corners, tiny

DATA = DataSplits(
    corners(200), corners(40, seed=1), corners(40, seed=2), tiny().class_names, tiny().preprocess
)
CLASS = ForgetRequest(classes=(2,))
INSTANCES = ForgetRequest(instances=(2, 3, 6, 11))


@functools.cache
def learnt() -> Classifier:
    arch = Arch("bandstop:resnet", {"width": 8, "blocks": "1"})
    recipe = Recipe(epochs=6, batch=20, lr=0.1, label_smoothing=0, shift=0, flip=False)
    model = train(arch, DATA, recipe)
    model.zero_grad()  # so that a test sees where a gradient is left
    assert bool((logits(model, DATA.test).argmax(1) == DATA.test.labels).all())
    return model


def forget(
    method: Method,
    request: ForgetRequest = CLASS,
    *,
    data: Splits | None = None,
    journal: Journal | None = None,
) -> WeightEdit:
    """Return the edit of `learnt()`, of BatchNorm too."""
    edit = method(learnt(), request, data or split(DATA, request), journal)
    assert isinstance(edit, WeightEdit)
    return edit


def share(edit: Edit, images: ImageSet, c: int) -> float:
    """Return the share of `images` that the edited network takes for class `c`."""
    answers = logits(edited(learnt(), edit), images).argmax(1)
    return float((answers == c).double().mean())


def same(one: WeightEdit, two: WeightEdit) -> bool:
    return one.weights.keys() == two.weights.keys() and all(
        torch.equal(value, two.weights[name]) for name, value in one.weights.items()
    )


def state(model: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def black(images: ImageSet) -> ImageSet:
    """Return as many pictures with nothing on them."""
    store = torch.zeros((len(images), 1, 8, 8), dtype=torch.uint8)
    return replace(images, images=store, index=torch.arange(len(images)))


@dataclass(slots=True)
class Killed(Journal):
    """A journal whose run dies right after so many notes."""

    left: int = 1

    def note_(self, state: Callable[[], State]) -> None:
        Journal.note_(self, state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def resumed(method: Method, file: Path, after: int) -> WeightEdit:
    """Return the edit of a run that died after so many steps and went on from its journal."""
    with pytest.raises(KeyboardInterrupt):
        forget(method, journal=Killed(file, every=0.0, left=after))
    assert file.exists()
    return forget(method, journal=Journal(file, every=0.0))
