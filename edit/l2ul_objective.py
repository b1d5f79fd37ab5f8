"""What L2UL minimises in a step: forget some instances, hold the boundaries, hold the weights."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit import team
from bandstop.edit.classifier import Classifier
from bandstop.edit.importance import penalty
from bandstop.edit.l2ul_task import Batch, Task

Push = Literal["climb", "margin"]


def objective(
    student: Classifier,
    task: Task,
    forget: Batch,
    hold: Batch | None,
    *,
    push: Push = "climb",
    margin: float = 0.0,
    weight: float = 1.0,
    strength: float = 0.0,
) -> tuple[Tensor, float]:
    """Return this process's share of the loss, for its gradient, and the loss (section 3).

    The loss is `w_f L_forget + w_a CE(adversaries) + strength R`, w by the sizes of the batches,
    that of the instances times `weight`.

    Args:
        student: in training.
        task: tells what the labels mean, and what R holds.
        forget: instances.
        hold: adversaries; None: none.
        push: what L_forget is, see `pushed`.
        margin: see `pushed`.
        weight: of an instance's loss against that of an image that holds.
        strength: of R.
    """
    parts = [forget] if hold is None else [forget, hold]
    wanted = [label[team.share(len(label))] for _, label in parts]
    answers = _answers(student, [image for image, _ in parts], together=task.rest is not None)
    label = wanted[0].to(answers[0].device)
    losses = pushed(answers[0], label, relabel=task.relabel, push=push, margin=margin)
    value = weight * team.of_all(losses, len(forget[1])).sum()
    counts = weight * len(forget[1])
    if hold is not None:
        own = wanted[1].to(answers[1].device)
        losses = F.cross_entropy(answers[1], own, reduction="none")
        value = value + team.of_all(losses, len(hold[1])).sum()
        counts += len(hold[1])
    value = value / counts
    total = float(value.detach())
    if task.held is not None and strength:
        still = strength * penalty(student.network.named_parameters(), task.start, task.held)
        total += float(still.detach())
        value = value + still / team.size()  # gradients are summed over the team
    return value, total


def pushed(answers: Tensor, label: Tensor, *, relabel: bool, push: Push, margin: float) -> Tensor:
    """Return the loss (n,) of instances by their logits (n, C).

    `climb` is the paper's: -CE of the labels to be left behind, +CE of those to be taken on; it
    hardly moves what is known well, and never ends. `margin` is how far the logit of the wrong side
    is above that of the right one, plus `margin`, and 0 below: every instance is pushed alike until
    it is over the boundary, and then left alone.
    """
    if push == "climb":
        losses = F.cross_entropy(answers, label, reduction="none")
        return losses if relabel else -losses
    own = answers.gather(1, label[:, None])[:, 0]
    best = answers.scatter(1, label[:, None], -torch.inf).amax(1)
    ahead = best - own if relabel else own - best
    return F.relu(ahead + margin)


def _answers(student: Classifier, images: Sequence[Tensor], *, together: bool) -> list[Tensor]:
    """Return the logits of this process's share of each batch.

    In training BatchNorm sees the batches one after the other, as in the paper's code, or together.
    A batch of instances alone has statistics of its own: what is forgotten under these is known
    again under those of all images.
    """
    mine = [image[team.share(len(image))].to(student.mean) for image in images]
    if not together:
        return [student(image) for image in mine]
    answers: Tensor = student(torch.cat(mine))
    return list(answers.split([len(image) for image in mine]))
