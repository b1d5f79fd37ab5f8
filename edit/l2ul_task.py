"""What L2UL has to reach: which images shall be taken for what."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.baselines.training import Draws
from bandstop.edit.classifier import Classifier
from bandstop.edit.images import ImageSet
from bandstop.edit.importance import ByName

Batch = tuple[Tensor, Tensor]  # images (n, c, h, w), and labels (n,) or probabilities (n, C)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be reached.

    Attributes:
        forget: the instances; labels are those that they have, or shall have.
        relabel: whether labels are those that they shall have.
        adversaries: images that hold the boundaries, with their targets; None: none.
        answers: probabilities (n, C) that the adversaries shall keep, in place of their targets.
        start: parameter name -> value before the first step.
        held: parameter name -> how much each entry is held, in [0, 1]; None: not at all.
        rest: images that stay, which hold the boundaries too; None: none, as in the paper.
    """

    forget: ImageSet
    relabel: bool
    adversaries: ImageSet | None
    answers: Tensor | None
    start: ByName
    held: ByName | None
    rest: "Rest | None" = None

    def left(self, answers: Tensor) -> Tensor:
        """Return which instances (k,) are not where they shall be, by their logits (k, C)."""
        own = answers.argmax(1) == self.forget.labels
        return ~own if self.relabel else own

    def instances(self, size: int, step: int, among: Tensor | None = None) -> Batch:
        """Return the `size` instances at most whose turn it is, of those at `among` or of all."""
        every = torch.arange(len(self.forget)) if among is None or not len(among) else among
        part = every[turn(len(every), size, step)]
        return next(self.forget.take(part).batches(size))

    def holding(self, size: int, step: int) -> Batch | None:
        """Return what holds at `step`, `size` adversaries at most, and what it shall be."""
        held = self._adversaries(size, step)
        if self.rest is None:
            return held
        image, answer = self.rest(step)
        if held is None:
            return image, answer
        wanted = held[1]
        if wanted.ndim == 1:
            wanted = F.one_hot(wanted, answer.shape[1]).to(answer)
        return torch.cat((held[0], image)), torch.cat((wanted, answer))

    def _adversaries(self, size: int, step: int) -> Batch | None:
        if self.adversaries is None:
            return None
        part = turn(len(self.adversaries), size, step)
        image, target = next(self.adversaries.take(part).batches(size))
        return image, target if self.answers is None else self.answers[part]


@dataclass(frozen=True, slots=True)
class Rest:
    """Training images that stay, and the answers that they shall keep.

    Attributes:
        draws: gives a batch of them for a step.
        teacher: the network before the first step.
    """

    draws: Draws
    teacher: Classifier

    def __call__(self, step: int) -> Batch:
        """Return images and the probabilities (n, C) that they had."""
        image, _ = self.draws(step)
        with torch.no_grad():
            answers: Tensor = self.teacher(image.to(self.teacher.mean))
        return image, answers.softmax(1).cpu()


def turn(count: int, size: int, step: int) -> Tensor:
    """Return the positions of the at most `size` of `count` things whose turn it is at `step`."""
    rounds = -(-count // size)
    first = (step % rounds) * size
    return torch.arange(first, min(first + size, count))
