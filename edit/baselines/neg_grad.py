"""Negative gradient: climb the loss on what is to be forgotten, and nothing else."""

from dataclasses import dataclass
from typing import ClassVar

from bandstop.edit.accuracy import accuracy_on
from bandstop.edit.baselines.training import (
    Draws,
    TrainsBatchNorm,
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
class NegGrad(TrainsBatchNorm):
    """Ascend on the forgotten images until none is recognised; known to take the rest along.

    Attributes:
        epochs: passes over the forgotten images at most.
        batch: images a step.
        lr: of SGD with momentum 0.9.
        weight_decay: of all parameters.
        check_every: steps between two looks at whether all is forgotten.
        seed: of the order.
    """

    name: ClassVar[str] = "neg-grad"
    epochs: int = 5
    batch: int = 64
    lr: float = 3e-4
    weight_decay: float = 0.0
    check_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        check_numbers(self, ("epochs", "batch", "lr", "check_every"), ("weight_decay",))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit that the ascent amounts to; `model` is left as it was.

        Args:
            model: what is to forget.
            request: only tells which images are forgotten.
            data: its forgotten images are climbed.
            journal: where the state is noted, to go on from.

        Raises:
            InputError: no images to forget.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "forget")
        forget = Draws(data.forget, self.batch, self.seed, augment=False)

        def finished(student: Classifier, step: int) -> bool:
            if step % self.check_every:
                return False
            return accuracy_on(student, data.forget) == 0

        student, steps = trained(
            model,
            lambda student, step: -cross_entropy(student, *forget(step)),
            self.epochs * forget.per_epoch,
            name=self.name,
            optimizer=sgd(self.lr, weight_decay=self.weight_decay),
            seed=self.seed,
            journal=journal,
            finished=finished,
        )
        return edit_of(model, student, {"steps": steps})
