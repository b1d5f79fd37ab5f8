"""What L2UL minimises in a step: forget some instances, hold the boundaries, hold the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit import team
from bandstop.edit.classifier import Classifier
from bandstop.edit.images import ImageSet
from bandstop.edit.importance import ByName, penalty


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be reached.

    Attributes:
        forget: the instances; labels are those that they have, or shall have.
        relabel: whether labels are those that they shall have.
        adversaries: images with the labels that hold the boundaries; None: none.
        start: parameter name -> value before the first step.
        held: parameter name -> how much each entry is held, in [0, 1]; None: not at all.
    """

    forget: ImageSet
    relabel: bool
    adversaries: ImageSet | None
    start: ByName
    held: ByName | None

    def left(self, answers: Tensor) -> Tensor:
        """Return which instances (k,) are not where they shall be, by their logits (k, C)."""
        own = answers.argmax(1) == self.forget.labels
        return ~own if self.relabel else own


def objective(
    student: Classifier,
    task: Task,
    forget: tuple[Tensor, Tensor],
    hold: tuple[Tensor, Tensor] | None,
    *,
    strength: float,
    only_left: bool = False,
) -> tuple[Tensor, float]:
    """Return this process's share of the loss, for its gradient, and the loss (section 3).

    The loss is `w_f L_forget + w_a CE(adversaries) + strength R`, w by the sizes of the batches;
    L_forget is -CE of the labels to be left behind, or +CE of those to be taken on.

    Args:
        student: in training; BatchNorm sees the two batches one after the other.
        task: tells what the labels mean, and what R holds.
        forget: images and labels of instances.
        hold: adversarial images and their targets; None: none.
        strength: of R.
        only_left: whether instances that are forgotten already are left alone.
    """
    image, label = forget
    losses, answers = _losses(student, image, label)
    if only_left:
        losses = losses * (answers.argmax(1) == label.to(answers.device))
    sign = 1 if task.relabel else -1
    value, counts = sign * losses.sum(), len(label)
    if hold is not None:
        value = value + _losses(student, *hold)[0].sum()
        counts += len(hold[1])
    value = value / counts
    total = float(value.detach())
    if task.held is not None and strength:
        still = strength * penalty(student.network.named_parameters(), task.start, task.held)
        total += float(still.detach())
        value = value + still / team.size()  # gradients are summed over the team
    return value, total


def _losses(student: Classifier, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses (n,) and logits (n, C) of a batch; gradients flow into this process's share."""
    mine = team.share(len(label))
    answers = student(image[mine].to(student.mean))
    losses = F.cross_entropy(answers, label[mine].to(answers.device), reduction="none")
    return team.of_all(losses, len(label)), team.of_all(answers.detach(), len(label))


def turn(images: ImageSet, size: int, step: int) -> tuple[Tensor, Tensor]:
    """Return the batch of at most `size` images whose turn it is at `step`, in their order."""
    count = -(-len(images) // size)
    first = (step % count) * size
    part = images.take(torch.arange(first, min(first + size, len(images))))
    return next(part.batches(size))
