"""SSD against importances computed by hand, and its limits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.baselines.ssd import SSD, importance
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.images import ImageSet, Preprocess
from bandstop.edit.method import Splits, split
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import CLASS, DATA, learnt

FIRST = ForgetRequest(classes=(0,))


def linear() -> Classifier:
    """Return a network whose answers are even, of images of bytes (a, b) that come in as (a, b)."""
    head = nn.Linear(2, 2)
    nn.init.ones_(head.weight)
    nn.init.ones_(head.bias)
    prep = Preprocess((1, 2), 1, (0.0,), (1 / 255,))
    return Classifier(nn.Sequential(nn.Flatten(), head), Arch("test:linear"), prep, ("a", "b"))


def two(*rows: tuple[int, int]) -> ImageSet:
    """Return images of two pixels, the first of class 0, the others of class 1."""
    images = torch.tensor(rows, dtype=torch.uint8).reshape(-1, 1, 1, 2)
    return ImageSet(images, torch.arange(len(rows)), (torch.arange(len(rows)) > 0).long())


def parts(images: ImageSet) -> Splits:
    return Splits(images.of_classes((0,)), images.of_classes((1,)), images.of_classes(()))


def both(*columns: float) -> Tensor:
    return torch.tensor([columns, columns])


@pytest.mark.parametrize(
    ("batch", "weight", "bias"),
    [
        # (p - y)^2 x^2 with p = 1/2, a mean over (4, 2) and (2, 6)
        (1, ((16 + 4) / 8, (4 + 36) / 8), 0.25),
        # the gradients of one row are -x/2 and x/2: the square of their mean
        (2, ((4 - 2) ** 2 / 16, (2 - 6) ** 2 / 16), 0.0),
    ],
)
def test_importances_of_a_linear_network_are_known(
    batch: int, weight: tuple[float, float], bias: float
) -> None:
    found = importance(linear(), two((4, 2), (2, 6)), batch, "toy")
    torch.testing.assert_close(found["1.weight"], both(*weight))
    torch.testing.assert_close(found["1.bias"], torch.full((2,), bias))


def test_a_last_batch_that_is_not_full_counts_by_its_images() -> None:
    # batches of two images of class 1 and of one: (9^2 * 2 + 3^2) / 4 / 3 of the first pixel
    images = two((0, 0), (9, 0), (9, 0), (3, 0)).of_classes((1,))
    found = importance(linear(), images, 2, "toy")
    torch.testing.assert_close(found["1.weight"], both((81 * 2 + 9) / 12, 0))


@pytest.mark.parametrize(
    ("alpha", "strength", "columns", "shrunk"),
    [
        (1.5, 1.0, (2.5 / 4, 1.0), 2),  # only the first pixel's 4 > 1.5 * 2.5
        (1.5, 0.5, (1.25 / 4, 1.0), 2),
        (0.1, 1.0, (2.5 / 4, 1.0), 2),  # the second's 5 / 1 would grow
        (0.1, 0.0, (0.0, 0.0), 6),
        (0.1, 0.1, (0.25 / 4, 0.5 / 1), 6),
    ],
)
def test_weights_are_dampened_by_the_known_factor(
    alpha: float, strength: float, columns: tuple[float, float], shrunk: int
) -> None:
    # importances of the weights: 4 and 1 to the forgotten image, 2.5 and 5 to both
    edit = SSD(alpha=alpha, strength=strength, batch=1)(linear(), FIRST, parts(two((4, 2), (2, 6))))
    torch.testing.assert_close(edit.weights["1.weight"], both(*columns))
    assert edit.found == {"dampened": shrunk / 6}
    assert ("1.bias" in edit.weights) == (shrunk == 6)


@pytest.mark.parametrize(
    ("forgotten", "every", "factor"),
    [(0.0, 0.0, 1.0), (0.0, 5.0, 1.0), (3.0, 0.0, 0.0), (1e-38, 1e-40, 0.01), (2.0, 1.0, 1.0)],
)
def test_importances_of_zero_do_no_harm(forgotten: float, every: float, factor: float) -> None:
    found = SSD(alpha=2.0).factor(torch.tensor([forgotten]), torch.tensor([every]))
    torch.testing.assert_close(found, torch.tensor([factor]), rtol=1e-3, atol=0)


def test_single_images_bound_how_much_more_a_weight_can_matter() -> None:
    # a quarter of the images is to be forgotten, and is in the mean over all: 4 times at most
    model = fold_batchnorm(learnt())
    data = split(DATA, CLASS)
    with pytest.raises(NothingForgottenError, match=r"^ssd: no weight matters more than 4\.001 "):
        SSD(alpha=4.001, batch=1, images=None)(model, CLASS, data)
    assert SSD(alpha=4.001, batch=16, images=None)(model, CLASS, data).weights


def changed(setting: SSD) -> WeightEdit:
    return setting(fold_batchnorm(learnt()), CLASS, split(DATA, CLASS))


def test_the_more_must_be_exceeded_the_less_is_dampened() -> None:
    shares = [changed(SSD(alpha=a, batch=16)).found["dampened"] for a in (1.0, 3.0, 9.0)]
    assert shares == sorted(shares, key=float, reverse=True)  # type: ignore[arg-type]  # a float
    assert shares[0] != shares[2]


def test_so_many_images_are_looked_at_as_asked() -> None:
    few, all_, more = (changed(SSD(alpha=2, batch=16, images=n)) for n in (20, None, 10_000))
    assert few.found != all_.found
    assert all_.found == more.found


def test_no_weight_grows_or_changes_its_sign() -> None:
    before = fold_batchnorm(learnt()).network.state_dict()
    for name, after in changed(SSD(alpha=1.0, batch=16)).weights.items():
        assert bool((after.abs() <= before[name].abs()).all())
        assert bool((after * before[name] >= 0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "ssd: alpha must be a number above 0"),
        ({"images": 0, "batch": 0}, "batch must .*; images must"),
        ({"strength": -1.0}, "strength must be a number from 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SSD(), **settings)
