"""Other labels for what is to be forgotten."""

from dataclasses import replace

import torch
from torch import Tensor

from bandstop.edit.accuracy import logits
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.request import ForgetRequest
from bandstop.edit.seeds import seeded


def relabelled(
    images: ImageSet, request: ForgetRequest, classes: int, seed: int, *, true_label: bool = False
) -> ImageSet:
    """Return the same images with the labels of the request, or with random ones if it has none.

    An image keeps its label for the whole training: so it is training on one well-defined set, and
    a run that goes on after a kill sees the same labels.

    Args:
        images: what is to be forgotten, with true labels.
        request: its classes are given to no image.
        classes: how many there are.
        seed: of the random labels.
        true_label: whether to draw from all classes instead, the true and the forgotten ones too.

    Raises:
        InputError: the request has a label that is no class.
    """
    if request.labels:
        return replace(images, labels=_asked(request, images, classes))
    chance = torch.rand(len(images), classes, generator=seeded(seed, 3))
    if not true_label:
        chance[:, list(request.classes)] = -1
        chance.scatter_(1, images.labels[:, None], -1)
    return replace(images, labels=chance.argmax(1))


def new_labels(model: Classifier, request: ForgetRequest, forget: ImageSet, seed: int) -> ImageSet:
    """Return the instances with the labels that they shall have.

    Raises:
        InputError: one has that label already.
    """
    given = relabelled(forget, request, model.num_classes, seed)
    same = forget.index[given.labels == forget.labels].tolist()
    if same:
        raise InputError(
            f"l2ul: {len(same)} instances have the label already that they shall be given "
            f"({', '.join(map(str, same[:5]))}); name another one"
        )
    return given


def as_answered(model: Classifier, images: ImageSet) -> ImageSet:
    """Return `images` with the labels that `model` gives to them, the best one but their own."""
    answers = logits(model, images).scatter(1, images.labels[:, None], -torch.inf)
    return replace(images, labels=answers.argmax(1))


def _asked(request: ForgetRequest, images: ImageSet, classes: int) -> Tensor:
    wrong = sorted({label for label in request.labels if not 0 <= label < classes})
    if wrong:
        raise InputError(f"new labels must be 0..{classes - 1}, got {', '.join(map(str, wrong))}")
    wanted = dict(zip(request.instances, request.labels, strict=True))
    return torch.tensor([wanted[number] for number in images.index.tolist()])
