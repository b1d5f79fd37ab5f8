"""NegGrad+: climb the loss on what is to be forgotten while going down it on what stays."""

import math
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
    cross_entropy,
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
class NegGradPlus(TrainsBatchNorm):
    """Minimise `alpha CE(retained) - (1 - alpha) CE(forgotten)`.

    Kurmanji, Triantafillou, Hayes, Triantafillou: Towards Unbounded Machine Unlearning (arXiv
    2302.09880) compare themselves with it; `PAPER` has their repository's values. Ours are fewer
    epochs, and an ascent that ends: a cross-entropy has no maximum, so that it would in the end
    outgrow the other term. Both kinds of images go through the network together, so that BatchNorm
    sees a mixture, as it did in the first training.

    Attributes:
        alpha: weight of the retained images, from 0 to 1; 1 is fine-tuning.
        ceiling: times ln(classes), the loss of an answer by chance; an image above it is forgotten
            and climbed no further. None climbs for ever.
        epochs: passes over the retained images.
        batch: retained images a step.
        forget_batch: forgotten images a step.
        lr: of SGD with momentum 0.9.
        weight_decay: of all parameters.
        seed: of the order and the augmentation.
    """

    name: ClassVar[str] = "neg-grad-plus"
    alpha: float = 0.95
    ceiling: float | None = 5.0
    epochs: int = 1
    batch: int = 128
    forget_batch: int = 32
    lr: float = 0.01
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        above = ("epochs", "batch", "forget_batch", "lr")
        stop = () if self.ceiling is None else ("ceiling",)
        check_numbers(self, (*above, *stop), ("alpha", "weight_decay"), up_to_one=("alpha",))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit that the training amounts to; `model` is left as it was.

        Args:
            model: what is to forget.
            request: only tells which images are forgotten.
            data: its forgotten images are climbed, its retained ones trained on.
            journal: where the state is noted, to go on from.

        Raises:
            InputError: no images to forget or to retain.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "forget", "retain")
        forget = Draws(data.forget, self.forget_batch, self.seed)
        retain = Draws(data.retain, self.batch, self.seed)
        student, steps = trained(
            model,
            self._loss(forget, retain),
            self.epochs * retain.per_epoch,
            name=self.name,
            optimizer=sgd(self.lr, weight_decay=self.weight_decay),
            seed=self.seed,
            journal=journal,
        )
        return edit_of(model, student, {"steps": steps})

    def _loss(self, forget: Draws, retain: Draws) -> Loss:
        def loss(student: Classifier, step: int) -> Tensor:
            if self.alpha == 1:
                return cross_entropy(student, *retain(step))
            (kept, label), (gone, truth) = retain(step), forget(step)
            answer = answers(student, torch.cat((kept, gone)))
            down = F.cross_entropy(answer[: len(kept)], label.to(answer.device))
            up = self._capped(answer[len(kept) :], truth.to(answer.device))
            return self.alpha * down - (1 - self.alpha) * up

        return loss

    def _capped(self, answer: Tensor, truth: Tensor) -> Tensor:
        """Return the mean cross-entropy (); what is above the ceiling has no gradient."""
        most = math.inf if self.ceiling is None else self.ceiling * math.log(answer.shape[1])
        return F.cross_entropy(answer, truth, reduction="none").clamp(max=most).mean()


# how SCRUB's repository runs it
PAPER = NegGradPlus(ceiling=None, epochs=10)
