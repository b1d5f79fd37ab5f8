"""What a classifier answers, and how much of it is right."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet


def logits(model: Classifier, images: ImageSet, *, batch: int = 500) -> Tensor:
    """Return the logits (n, num_classes) of all images, on the CPU."""
    with torch.no_grad():
        parts = [model(image.to(model.mean)).cpu() for image, _ in images.batches(batch)]
    return torch.cat(parts) if parts else torch.empty(0, model.num_classes)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the fraction of `predicted` (n,) that equals `labels` (n,).

    Raises:
        InputError: nothing to compare.
    """
    if not len(labels):
        raise InputError("accuracy of no images is not defined")
    return float((predicted == labels).double().mean())


def accuracy_on(model: Classifier, images: ImageSet) -> float:
    """Return the fraction of `images` that `model` gives their label.

    Raises:
        InputError: there are none.
    """
    return accuracy(logits(model, images).argmax(1), images.labels)


def forget_and_retain(
    predicted: Tensor, labels: Tensor, classes: Sequence[int]
) -> tuple[float, float]:
    """Return the accuracies inside and outside the forgotten `classes`, images counted equally."""
    forgotten = torch.isin(labels, torch.tensor(list(classes)))
    return (
        accuracy(predicted[forgotten], labels[forgotten]),
        accuracy(predicted[~forgotten], labels[~forgotten]),
    )
