"""How weights matter to images: known answers, and what must not change them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.images import ImageSet, Preprocess
from bandstop.edit.importance import importance, penalty, protection
from tests.networks import corners, tiny


class Linear(nn.Module):
    """Logits W x of two pixels, and a weight that nothing reads."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def linear(weight: Tensor) -> Classifier:
    # an image of bytes (3, 4) comes in as (3, 4)
    prep = Preprocess((1, 2), 1, (0.0,), (1 / 255,))
    return Classifier(Linear(weight), Arch("test:linear"), prep, ("a", "b"))


def pixels(*rows: tuple[int, int]) -> ImageSet:
    images = torch.tensor(rows, dtype=torch.uint8).reshape(-1, 1, 1, 2)
    return ImageSet(images, torch.arange(len(rows)), torch.zeros(len(rows), dtype=torch.int64))


def test_a_linear_network_has_the_known_importance() -> None:
    omega = importance(linear(torch.eye(2)), pixels((3, 4)))["weight"]
    expected = torch.tensor([[1.8, 2.4], [2.4, 3.2]])  # |z_i x_j| / ||z||
    torch.testing.assert_close(omega, expected, rtol=1e-5, atol=0)
    held = protection({"weight": omega})["weight"]
    low = 1 - (2.4 - 1.8) / (3.2 - 1.8)
    torch.testing.assert_close(held, torch.tensor([[1.0, low], [low, 0.0]]), rtol=0, atol=1e-5)


def test_the_penalty_has_its_known_value() -> None:
    held = protection(importance(linear(torch.eye(2)), pixels((3, 4))))
    moved = linear(torch.eye(2) + 0.1).network
    start = {"weight": torch.eye(2), "unused": torch.ones(3)}
    value = penalty(moved.named_parameters(), start, held)
    assert value.item() == pytest.approx(0.010714, abs=1e-6)


def test_where_nothing_moved_there_is_no_penalty_and_no_slope() -> None:
    model = tiny(norm=False)
    held = protection(importance(model, corners(8)))
    start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    value = penalty(model.network.named_parameters(), start, held)
    slopes = torch.autograd.grad(value, list(model.network.parameters()))
    assert value.item() == 0
    assert all(not slope.any() for slope in slopes)


def test_a_weight_without_influence_is_held_and_nothing_is_nan() -> None:
    held = protection(importance(linear(torch.eye(2)), pixels((3, 4))))
    assert torch.equal(held["unused"], torch.ones(3))
    assert all(bool(torch.isfinite(value).all()) for value in held.values())


@pytest.mark.parametrize(
    ("change", "batch"),
    [
        (lambda images: images.take(torch.randperm(len(images))), 1),  # another order
        (lambda images: images.take(torch.arange(len(images)).repeat(2)), 1),  # all twice
    ],
)
def test_order_and_repetition_do_not_matter(
    change: Callable[[ImageSet], ImageSet], batch: int
) -> None:
    model, images = tiny(norm=False), corners(12)
    held = protection(importance(model, images, batch=batch))
    other = protection(importance(model, change(images), batch=batch))
    for name, value in held.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)


def test_the_scale_of_the_logits_does_not_matter() -> None:
    weight = torch.tensor([[1.0, 2.0], [-0.5, 0.3]])
    images = pixels((3, 4), (100, 7))
    # for a linear network d||c W x|| / dW = c d||W x|| / dW, which normalising takes out
    one, three = (protection(importance(linear(c * weight), images))["weight"] for c in (1, 3))
    torch.testing.assert_close(one, three, rtol=0, atol=1e-6)


def test_batches_are_averaged_before_the_absolute_value() -> None:
    # opposite images: their slopes cancel within a batch, not between batches
    model = linear(torch.eye(2))
    model.mean.fill_(10 / 255)
    images = pixels((13, 10), (7, 10))
    single = importance(model, images, batch=1)["weight"][0, 0]
    assert single.item() == pytest.approx(3, abs=1e-4)
    together = importance(model, images, batch=2)["weight"]
    assert together[0, 0].item() == pytest.approx(3, abs=1e-4)  # both lengthen with the weight
    assert together[1, 0].item() == pytest.approx(0, abs=1e-4)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny(norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    importance(model, corners(8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
