"""Fine-tuning: go on training on what is to stay, and trust that the rest fades."""

from dataclasses import dataclass
from typing import ClassVar

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
class FineTune(TrainsBatchNorm):
    """Train on the retained images alone.

    Attributes:
        epochs: passes over the retained images.
        batch: images a step.
        lr: of SGD with momentum 0.9.
        weight_decay: of all parameters.
        seed: of the order and the augmentation.
    """

    name: ClassVar[str] = "fine-tune"
    epochs: int = 5
    batch: int = 128
    lr: float = 0.01
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        check_numbers(self, ("epochs", "batch", "lr"), ("weight_decay",))

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
            request: only tells which images stay.
            data: its retained images are trained on.
            journal: where the state is noted, to go on from.

        Raises:
            InputError: no images to retain.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "retain")
        retain = Draws(data.retain, self.batch, self.seed)
        student, steps = trained(
            model,
            lambda student, step: cross_entropy(student, *retain(step)),
            self.epochs * retain.per_epoch,
            name=self.name,
            optimizer=sgd(self.lr, weight_decay=self.weight_decay),
            seed=self.seed,
            journal=journal,
        )
        return edit_of(model, student, {"steps": steps})


# SCRUB's and SalUn's repositories run it as a baseline with these values
PAPER = FineTune(epochs=10)
