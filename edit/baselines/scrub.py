"""SCRUB: disobey the original network on what is to be forgotten, follow it on what stays."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.baselines.training import (
    Draws,
    Loss,
    TrainsBatchNorm,
    answers,
    check_images,
    divergence,
    edit_of,
    sgd,
    trained,
)
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.request import ForgetRequest


@dataclass(frozen=True, slots=True)
class SCRUB(TrainsBatchNorm):
    """Alternate passes away from the teacher on forgotten images and back to it on retained ones.

    Kurmanji, Triantafillou, Hayes, Triantafillou: Towards Unbounded Machine Unlearning (arXiv
    2302.09880). The teacher is the original network in evaluation. `PAPER` has the values of its
    repository for large networks, whose rate falls only after the last of the epochs. Ours are a
    higher rate, and larger batches of forgotten images: a divergence has no maximum, and 150 steps
    away ruin a small network beyond what the passes back can mend.

    At the start the student is the teacher, where the divergence has no slope. So the first pass
    away lives on what BatchNorm's batches and dropout make different. A network without these
    hardly moves in it, and needs `max_epochs` of 2 or more.

    Attributes:
        max_epochs: how many epochs begin with a pass away (the paper's msteps).
        epochs: passes back, over the retained images.
        batch: retained images a step.
        forget_batch: forgotten images a step.
        gamma: weight of the cross-entropy of retained images.
        alpha: weight of their divergence from the teacher.
        temperature: softens the answers that are compared.
        lr: of SGD with momentum 0.9.
        weight_decay: of all parameters.
        seed: of the order and the augmentation.
    """

    name: ClassVar[str] = "scrub"
    max_epochs: int = 2
    epochs: int = 3
    batch: int = 128
    forget_batch: int = 512
    gamma: float = 0.99
    alpha: float = 0.001
    temperature: float = 4.0
    lr: float = 0.005
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        above = ("epochs", "batch", "forget_batch", "gamma", "temperature", "lr")
        check_numbers(self, above, ("max_epochs", "alpha", "weight_decay"))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit that the training amounts to; `model` is left as it was.

        Args:
            model: what is to forget, and the teacher.
            request: only tells which images are forgotten.
            data: its forgotten and retained images are compared.
            journal: where the state is noted, to go on from.

        Raises:
            InputError: no images to forget or to retain.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "forget", "retain")
        forget = Draws(data.forget, self.forget_batch, self.seed)
        retain = Draws(data.retain, self.batch, self.seed)
        passes = min(self.max_epochs, self.epochs)
        student, steps = trained(
            model,
            self._loss(model, forget, retain),
            passes * forget.per_epoch + self.epochs * retain.per_epoch,
            name=self.name,
            optimizer=sgd(self.lr, weight_decay=self.weight_decay),
            seed=self.seed,
            journal=journal,
        )
        return edit_of(model, student, {"steps": steps})

    def _loss(self, model: Classifier, forget: Draws, retain: Draws) -> Loss:
        passes = min(self.max_epochs, self.epochs)

        def loss(student: Classifier, step: int) -> Tensor:
            away, number = turn(step, passes, forget.per_epoch, retain.per_epoch)
            image, label = (forget if away else retain)(number)
            with torch.no_grad():
                target = answers(model, image)
            answer = answers(student, image)
            apart = divergence(answer, target, self.temperature)
            if away:
                return -apart
            truth = F.cross_entropy(answer, label.to(answer.device))
            return self.gamma * truth + self.alpha * apart

        return loss


def turn(step: int, passes: int, away: int, back: int) -> tuple[bool, int]:
    """Return whether a step leads away from the teacher, and its number among those that do or not.

    Args:
        step: from 0.
        passes: epochs that begin with a pass away.
        away: steps of such a pass.
        back: steps of a pass back.
    """
    epoch, place = divmod(step, away + back)
    if epoch >= passes:
        return False, step - passes * away
    return (True, epoch * away + place) if place < away else (False, epoch * back + place - away)


PAPER = SCRUB(forget_batch=32, lr=5e-4)
