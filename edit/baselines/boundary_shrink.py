"""Boundary shrink: give every forgotten image to the class across its nearest boundary."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.baselines.training import (
    Draws,
    TrainsBatchNorm,
    answers,
    check_images,
    cross_entropy,
    edit_of,
    sgd,
    trained,
)
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.relabel import relabelled
from bandstop.edit.request import ForgetRequest

_BATCH = 250  # images whose nearest class is sought at once


@dataclass(frozen=True, slots=True)
class BoundaryShrink(TrainsBatchNorm):
    """Train on the forgotten images alone, each labelled as its nearest other class.

    Chen, Gao, Liu, Peng, Wang: Boundary Unlearning (arXiv 2303.11570). `PAPER` has the values of
    its repository. Ours are fewer epochs at a higher rate. Other than there, a forgotten class is
    never the nearest one, even where no boundary lies within the bound.

    Attributes:
        bound: how far each pixel, in [0, 1], may move in the search for the nearest class.
        epochs: passes over the forgotten images.
        batch: images a step.
        lr: of SGD with momentum 0.9.
        weight_decay: of all parameters.
        seed: of the order.
    """

    name: ClassVar[str] = "boundary-shrink"
    bound: float = 0.1
    epochs: int = 2
    batch: int = 64
    lr: float = 1e-4
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        check_numbers(self, ("epochs", "batch", "lr"), ("bound", "weight_decay"))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit that the training amounts to; `model` is left as it was.

        Args:
            model: what is to forget; it tells which class is nearest.
            request: tells which images are forgotten; its labels, if any, replace nearest classes.
            data: its forgotten images are relabelled and trained on.
            journal: where the state is noted, to go on from.

        Raises:
            InputError: no images to forget, no class that they could be given to, or a label of the
                request that is no class.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "forget")
        if len(request.classes) >= model.num_classes:
            raise InputError(f"{self.name}: every class is forgotten; leave one to go to")
        images = self._moved(model, request, data.forget)
        moved = Draws(images, self.batch, self.seed, augment=False)
        student, steps = trained(
            model,
            lambda student, step: cross_entropy(student, *moved(step)),
            self.epochs * moved.per_epoch,
            name=self.name,
            optimizer=sgd(self.lr, weight_decay=self.weight_decay),
            seed=self.seed,
            journal=journal,
        )
        return edit_of(model, student, {"steps": steps})

    def _moved(self, model: Classifier, request: ForgetRequest, forget: ImageSet) -> ImageSet:
        if request.labels:
            return relabelled(forget, request, model.num_classes, self.seed)
        return replace(forget, labels=nearest(model, forget, request.classes, self.bound))


def nearest(model: Classifier, images: ImageSet, closed: Sequence[int], bound: float) -> Tensor:
    """Return the class (n,) that each image is next to: not its own, and none of `closed`.

    Each image takes one step of the fast gradient sign method (arXiv 1412.6572) out of its class,
    by `bound` in every pixel of [0, 1]; the class is the likeliest of those that are left.
    """
    found = []
    for image, label in images.batches(_BATCH):
        moved = _out_of_class(model, image.to(model.mean), label.to(model.mean.device), bound)
        with torch.no_grad():
            logits = answers(model, moved).cpu()
        logits[:, list(closed)] = -torch.inf
        found.append(logits.scatter(1, label[:, None], -torch.inf).argmax(1))
    return torch.cat(found)


def _out_of_class(model: Classifier, image: Tensor, label: Tensor, bound: float) -> Tensor:
    image = image.requires_grad_()
    loss = F.cross_entropy(model(image), label, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, image)  # of the image alone: no parameter gets one
    return (image.detach() + bound * gradient.sign()).clamp(0, 1)


PAPER = BoundaryShrink(epochs=10, lr=1e-5)
