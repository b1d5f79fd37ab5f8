"""Boundary shrink: the class across the nearest boundary, and nothing but it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bandstop.edit.baselines.boundary_shrink import BoundaryShrink, nearest
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.method import split
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import (
    CLASS,
    DATA,
    INSTANCES,
    black,
    forget,
    learnt,
    resumed,
    same,
    share,
    state,
)
from tests.networks import classifier

SETTING = BoundaryShrink(epochs=10, batch=16, lr=1e-3)
QUICK = replace(SETTING, epochs=2)


def linear() -> Classifier:
    """Return a softmax on two pixels: class 0 left and below, 1 is right, 2 is up, 3 is never."""
    layer = nn.Linear(2, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [0.0, 0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -20.0]))  # boundaries of 0 in the middle
    model = classifier(nn.Sequential(nn.Flatten(), layer), size=1, channels=2)
    return model.eval()


def points(*places: tuple[float, float]) -> ImageSet:
    """Return pictures of class 0 that are two pixels each."""
    pixels = (255 * torch.tensor(places)).round().to(torch.uint8).reshape(-1, 2, 1, 1)
    return ImageSet(pixels, torch.arange(len(places)), torch.zeros(len(places), dtype=torch.int64))


@pytest.mark.parametrize(
    ("place", "wanted"),
    [((0.45, 0.30), 1), ((0.30, 0.45), 2), ((0.49, 0.48), 1), ((0.05, 0.10), 2)],
)
def test_the_nearest_class_is_across_the_nearest_boundary(
    place: tuple[float, float], wanted: int
) -> None:
    assert nearest(linear(), points(place), (0,), bound=0.1).tolist() == [wanted]


def test_neither_the_own_class_nor_a_closed_one_is_ever_the_nearest() -> None:
    near_right = points((0.45, 0.30), (0.05, 0.04))
    assert nearest(linear(), near_right, (), bound=0.0).tolist() == [1, 1]
    assert nearest(linear(), near_right, (0, 1), bound=0.1).tolist() == [2, 2]
    assert nearest(linear(), near_right, (0, 1, 2), bound=0.1).tolist() == [3, 3]


def test_it_is_the_class_behind_the_step_not_the_second_likeliest() -> None:
    # up is likelier here, to the right it soon becomes steeper
    model = linear()
    with torch.no_grad():
        layer = model.network[1]  # type: ignore[index]  # a Sequential
        layer.weight[2, 1] = 1.0
        layer.bias[2] = 1.5
    start = points((0.42, 0.10))
    assert nearest(model, start, (0,), bound=0.0).tolist() == [2]
    assert nearest(model, start, (0,), bound=0.5).tolist() == [1]


def test_the_search_leaves_the_network_and_its_gradients_alone() -> None:
    before = state(learnt())
    nearest(learnt(), DATA.train, (2,), bound=0.1)
    assert all(torch.equal(value, before[name]) for name, value in learnt().state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in learnt().parameters())


@pytest.mark.parametrize("request_", [CLASS, INSTANCES], ids=["class", "instances"])
def test_forgotten_images_become_their_nearest_class_and_no_other_is_read(
    request_: ForgetRequest,
) -> None:
    parts = split(DATA, request_)
    gone = parts.forget
    edit = forget(replace(SETTING, epochs=40, batch=4, lr=0.01), request_)
    for c in gone.labels.unique().tolist():
        assert share(edit, gone.of_classes((c,)), c) == 0
    other = replace(parts, retain=black(parts.retain))
    assert same(forget(QUICK, request_), forget(QUICK, request_, data=other))


def test_labels_that_the_request_has_replace_the_nearest_class() -> None:
    data = split(DATA, INSTANCES)
    close = nearest(learnt(), data.forget, (), bound=0.1)
    far = next(c for c in range(4) if c != int(data.forget.labels[0]) and c != int(close[0]))
    asked = replace(INSTANCES, labels=(far, *close[1:].tolist()))
    edit = forget(replace(SETTING, epochs=60, batch=4, lr=0.01), asked)
    assert share(edit, data.forget.take(torch.tensor([0])), far) == 1
    plain = replace(INSTANCES, labels=tuple(close.tolist()))
    assert same(forget(QUICK, plain), forget(QUICK, INSTANCES))


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_run_ends_with_the_same_bytes(after: int, tmp_path: Path) -> None:
    assert same(resumed(QUICK, tmp_path / "state", after), forget(QUICK))


def test_requests_and_settings_that_make_no_sense_are_refused() -> None:
    parts = split(DATA, CLASS)
    with pytest.raises(InputError, match=r"^boundary-shrink: every class is forgotten"):
        forget(QUICK, ForgetRequest((0, 1, 2, 3)), data=parts)
    with pytest.raises(InputError, match="boundary-shrink: no images to forget"):
        forget(QUICK, data=replace(parts, forget=parts.forget.of_classes(())))
    with pytest.raises(InputError, match="bound must be a number from 0, got -1"):
        BoundaryShrink(bound=-1)
