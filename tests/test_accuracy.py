"""Answers and their accuracy, on cases that can be counted by hand."""

import pytest
import torch
from torch import nn

from bandstop.edit.accuracy import accuracy, forget_and_retain, logits
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from tests.networks import classifier, corners

LABELS = torch.tensor([0, 0, 1, 1, 1, 2])
PREDICTED = torch.tensor([0, 1, 1, 1, 0, 0])


def test_accuracy_is_the_share_that_is_right() -> None:
    assert accuracy(PREDICTED, LABELS) == 0.5
    assert accuracy(LABELS, LABELS) == 1.0
    assert accuracy(LABELS + 1, LABELS) == 0.0


@pytest.mark.parametrize(
    ("classes", "expected"),
    [((0,), (1 / 2, 2 / 4)), ((1,), (2 / 3, 1 / 3)), ((0, 2), (1 / 3, 2 / 3))],
)
def test_forgotten_and_retained_images_are_counted_apart(
    classes: tuple[int, ...], expected: tuple[float, float]
) -> None:
    assert forget_and_retain(PREDICTED, LABELS, classes) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [(), (3,), (0, 1, 2)])
def test_the_accuracy_of_no_images_is_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="of no images"):
        forget_and_retain(PREDICTED, LABELS, classes)


class Brightness(nn.Module):
    """Answers with the mean of each quarter of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def test_logits_come_in_the_order_of_the_images_whatever_the_batch() -> None:
    model, images = classifier(Brightness()), corners(50)
    answers = logits(model, images)
    assert answers.shape == (50, 4)
    assert not answers.requires_grad
    assert torch.equal(answers.argmax(1), images.labels)
    torch.testing.assert_close(logits(model, images, batch=7), answers)
    backwards = images.take(torch.arange(49, -1, -1))
    torch.testing.assert_close(logits(model, backwards), answers.flip(0))


def test_no_images_give_no_logits() -> None:
    images = corners(8)
    none = ImageSet(images.images, images.index[:0], images.labels[:0])
    assert logits(classifier(Brightness()), none).shape == (0, 4)
