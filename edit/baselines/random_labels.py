"""Random labels: train on what is to be forgotten under wrong labels, and on the rest as before."""

from dataclasses import dataclass
from typing import ClassVar

from bandstop.edit.baselines.training import (
    Draws,
    TrainsBatchNorm,
    check_images,
    edit_of,
    relabelling,
    sgd,
    trained,
)
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.relabel import relabelled
from bandstop.edit.request import ForgetRequest


@dataclass(frozen=True, slots=True)
class RandomLabels(TrainsBatchNorm):
    """Give each forgotten image a random label and train on it among the retained images.

    Graves, Nagisetty, Ganesh: Amnesiac Machine Learning (arXiv 2010.10981). `PAPER` has the values
    that SalUn's repository runs it with. Ours are fewer epochs, and labels that are never true.

    Attributes:
        true_label: whether the label may be the true one, or another forgotten class.
        epochs: passes over the retained images.
        batch: retained images a step.
        forget_batch: forgotten images a step.
        lr: of SGD with momentum 0.9.
        weight_decay: of all parameters.
        seed: of the labels, the order and the augmentation.
    """

    name: ClassVar[str] = "random-labels"
    true_label: bool = False
    epochs: int = 2
    batch: int = 128
    forget_batch: int = 32
    lr: float = 0.01
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        check_numbers(self, ("epochs", "batch", "forget_batch", "lr"), ("weight_decay",))

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
            request: its classes are given to no image; its labels, if any, replace random ones.
            data: its forgotten images are relabelled, its retained ones are trained on.
            journal: where the state is noted, to go on from.

        Raises:
            InputError: no images to forget or to retain, or a new label that is no class.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "forget", "retain")
        classes, free = model.num_classes, self.true_label
        wrong = relabelled(data.forget, request, classes, self.seed, true_label=free)
        retain = Draws(data.retain, self.batch, self.seed)
        student, steps = trained(
            model,
            relabelling(Draws(wrong, self.forget_batch, self.seed), retain),
            self.epochs * retain.per_epoch,
            name=self.name,
            optimizer=sgd(self.lr, weight_decay=self.weight_decay),
            seed=self.seed,
            journal=journal,
        )
        return edit_of(model, student, {"steps": steps})


# as SalUn's repository runs it; it draws the labels anew in every epoch
PAPER = RandomLabels(true_label=True, epochs=10, lr=0.013)
