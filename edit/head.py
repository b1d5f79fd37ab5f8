"""The last linear layer of a network, and the features in front of it."""

import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError


def head_of(model: Classifier) -> tuple[str, nn.Linear]:
    """Return the last linear layer that has one output a class, with its name.

    Raises:
        InputError: there is none.
    """
    heads = [
        (name, module)
        for name, module in model.network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.num_classes
    ]
    if not heads:
        raise InputError(f"the network has no last linear layer with {model.num_classes} outputs")
    return heads[-1]


def with_features(model: Classifier, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (n, classes) and what the head reads (n, features) of images (n, c, h, w).

    Raises:
        InputError: the network has no head, or the head reads no vector an image.
    """
    seen: list[Tensor] = []
    _, head = head_of(model)
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        logits = model(image)
    finally:
        handle.remove()
    features = seen[-1] if seen else torch.empty(0)
    if features.ndim != 2 or len(features) != len(image):
        raise InputError(
            "the head reads no vector an image, so it has no features to look at: "
            f"{tuple(features.shape)} for {len(image)} images"
        )
    return logits, features
