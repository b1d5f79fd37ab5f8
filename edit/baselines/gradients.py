"""Slopes of the loss by the weights' names, for methods that choose weights by them."""

import torch
from torch import Tensor

from bandstop.edit.baselines.training import cross_entropy
from bandstop.edit.classifier import Classifier


def gradients(model: Classifier, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Return the gradient of the mean cross-entropy for every parameter.

    `model`, and the `grad` of its parameters, are left as they were.

    Args:
        model: in evaluation.
        image: (n, c, h, w) in [0, 1].
        label: (n,).
    """
    names, weights = zip(*model.network.named_parameters(), strict=True)
    slopes = torch.autograd.grad(
        cross_entropy(model, image, label), weights, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, slopes, strict=True))
