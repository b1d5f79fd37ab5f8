"""Insertion and deletion on masks whose curves can be told beforehand (oracles C.7)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.accuracy import logits
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit, edited
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.insertion import Curves, insertion
from bandstop.edit.gates import gateable
from bandstop.edit.images import ImageSet, Preprocess
from tests.networks import corners, noise, tiny

WEIGHT = 2.0


class FourChannels(nn.Module):
    """Four channels that each hold the image's brightness; the first tells class 0, say."""

    def __init__(self, deciding: dict[int, int], *, classes: int = 2) -> None:
        """Let channel `deciding[c]` speak for class c."""
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1, bias=False)
        self.fc = nn.Linear(4, classes, bias=False)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.fc.weight)
        with torch.no_grad():
            for c, channel in deciding.items():
                self.fc.weight[c, channel] = WEIGHT

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).mean((2, 3)))
        return logits


def four(deciding: dict[int, int], *, classes: int = 2) -> Classifier:
    prep = Preprocess((1, 1), 1, (0.0,), (1.0,))
    names = tuple(f"class {c}" for c in range(classes))
    return Classifier(FourChannels(deciding, classes=classes), Arch("test:four"), prep, names)


def lights(*values: int, label: int = 0) -> ImageSet:
    """Return images of one pixel."""
    images = torch.tensor(values, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return ImageSet(images, torch.arange(len(values)), torch.full((len(values),), label))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def table(*rows: list[float]) -> GateEdit:
    return GateEdit({"conv.weight": torch.tensor(rows)})


def curves(
    gates: GateEdit, images: ImageSet, *, model: Classifier | None = None, **settings: int
) -> Curves:
    model = model or four({0: 0})
    return insertion(model, gates, [0], images, model, **settings)


LOW = 0.5 / sigmoid(WEIGHT)  # with its channel closed, class 0 is a guess of two
ONE_CLOSED = table([0.0, 0.9, 0.9, 0.9], [1.0] * 4)


def test_the_channel_that_the_class_needs_is_opened_and_closed_first() -> None:
    found = curves(ONE_CLOSED, lights(255), steps=4)
    assert found.fractions == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.insertion == pytest.approx([LOW, 1, 1, 1, 1])
    assert found.deletion == pytest.approx([1, LOW, LOW, LOW, LOW])
    area = found.areas["insertion_auc"]
    assert area.value == pytest.approx(0.75 + 0.25 * (1 + LOW) / 2)
    assert (area.n, area.ci95) == (1, None)
    assert found.areas["deletion_auc"].value == pytest.approx(0.75 * LOW + 0.25 * (1 + LOW) / 2)


def test_the_random_control_finds_the_channel_at_any_time() -> None:
    found = curves(ONE_CLOSED, lights(255), steps=4, orders=100)
    opened = [LOW + (1 - LOW) * k / 4 for k in range(5)]
    assert found.insertion_random == pytest.approx(opened, abs=0.06)
    assert found.deletion_random == pytest.approx(opened[::-1], abs=0.06)
    area = found.areas["insertion_random_auc"].value
    assert area == pytest.approx((1 + LOW) / 2, abs=0.03)
    assert found.areas["deletion_random_auc"].value == pytest.approx((1 + LOW) / 2, abs=0.03)


def test_open_masks_leave_nothing_to_insert() -> None:
    model = fold_batchnorm(tiny())
    gates = GateEdit({n: torch.ones(4, k) for n, k in gateable(model.network).items()})
    found = insertion(model, gates, [0, 1, 2, 3], corners(40), model, steps=5)
    for curve in (found.insertion, found.insertion_random):
        assert curve == pytest.approx([1] * 6)
    assert found.areas["insertion_auc"].value == pytest.approx(1)
    assert found.deletion[0] == found.deletion_random[0] == pytest.approx(1)


def test_a_point_is_a_ratio_of_means() -> None:
    found = curves(ONE_CLOSED, lights(255, 0, 51), steps=1)
    whole = (sigmoid(WEIGHT) + 0.5 + sigmoid(WEIGHT / 5)) / 3
    assert found.insertion == pytest.approx([0.5 / whole, 1])
    ratios = (0.5 / sigmoid(WEIGHT) + 1 + 0.5 / sigmoid(WEIGHT / 5)) / 3
    assert found.insertion[0] != pytest.approx(ratios, abs=1e-3)


def random_gates(model: Classifier) -> GateEdit:
    return GateEdit(
        {
            name: torch.sigmoid(2 * noise(4, channels, seed=i) - i)  # later ones are lower
            for i, (name, channels) in enumerate(gateable(model.network).items())
        }
    )


def confidence(model: Classifier, images: ImageSet, c: int) -> float:
    return logits(model, images).softmax(1)[:, c].mean().item()


def test_insertion_starts_from_the_row_and_ranks_each_mask_tensor_by_itself() -> None:
    model = fold_batchnorm(tiny())
    gates, images = random_gates(model), corners(40)
    found = insertion(model, gates, [2], images, model, steps=4)
    third = images.of_classes([2])
    whole = confidence(model, third, 2)
    start = confidence(edited(model, gates, [2]), third, 2)
    assert found.insertion[0] == pytest.approx(start / whole, rel=1e-5)
    half_open = {name: masks.clone() for name, masks in gates.masks.items()}
    half_closed = {name: torch.ones_like(masks) for name, masks in gates.masks.items()}
    for name, masks in gates.masks.items():
        lowest = masks[2] <= masks[2].median()  # half of 8 or 12
        half_open[name][2, lowest] = 1
        half_closed[name][2, lowest] = 0
    opened = confidence(edited(model, GateEdit(half_open), [2]), third, 2)
    closed = confidence(edited(model, GateEdit(half_closed), [2]), third, 2)
    assert found.insertion[2] == pytest.approx(opened / whole, rel=1e-5)
    assert found.deletion[2] == pytest.approx(closed / whole, rel=1e-5)
    assert opened != pytest.approx(start, rel=1e-2)


def test_confidences_are_shares_of_the_original_not_of_the_backbone() -> None:
    backbone, original = four({0: 0}), four({})
    found = insertion(backbone, ONE_CLOSED, [0], lights(255), original, steps=1)
    assert found.deletion[0] == pytest.approx(sigmoid(WEIGHT) / 0.5)


def test_classes_are_averaged() -> None:
    # class 0 has its channel closed, class 1 another one
    model = four({0: 0, 1: 1})
    gates = table([0.0, 0.9, 0.9, 0.9], [0.8, 0.9, 0.0, 0.9])
    pixel = torch.tensor([255, 255], dtype=torch.uint8).reshape(-1, 1, 1, 1)
    images = ImageSet(pixel, torch.arange(2), torch.arange(2))
    both = insertion(model, gates, [0, 1], images, model, steps=4)
    alone = [insertion(model, gates, [c], images, model, steps=4) for c in (0, 1)]
    for name in ("insertion", "deletion"):
        pairs = zip(*(getattr(one, name) for one in alone), strict=True)
        assert getattr(both, name) == pytest.approx([sum(pair) / 2 for pair in pairs])
    area = both.areas["insertion_auc"]
    values = [one.areas["insertion_auc"].value for one in alone]
    assert area.n == 2
    assert area.value == pytest.approx(sum(values) / 2)
    assert area.ci95 is not None
    assert values[0] != pytest.approx(values[1], abs=1e-3)


def test_the_same_seed_gives_the_same_curves_and_the_backbone_stays() -> None:
    model = fold_batchnorm(tiny())
    gates, images = random_gates(model), corners(20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two, other = (
        insertion(model, gates, [1], images, model, steps=4, seed=seed) for seed in (0, 0, 1)
    )
    assert one == two
    assert one.insertion == other.insertion
    assert one.insertion_random != other.insertion_random
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": [2]}, r"one or more classes 0\.\.1, got \(2,\)"),
        ({"classes": []}, r"got \(\)"),
        ({"classes": [1]}, r"no image of the classes \[1\] among 1"),
        ({"steps": 0}, "must be 1 or more, got 0, 3"),
        ({"orders": 0}, "must be 1 or more, got 20, 0"),
        ({"gates": GateEdit({"conv.bias": torch.ones(2, 4)})}, "conv.bias: not a parameter"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings: dict[str, Any], message: str) -> None:
    given = {
        "backbone": four({0: 0}),
        "gates": ONE_CLOSED,
        "classes": [0],
        "images": lights(255),
        "original": four({0: 0}),
        **settings,
    }
    with pytest.raises(InputError, match=message):
        insertion(**given)
