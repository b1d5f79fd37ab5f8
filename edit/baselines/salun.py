"""SalUn: random labels, but only the weights that matter most to what is to be forgotten move."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bandstop.edit.baselines.gradients import gradients
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
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.relabel import relabelled
from bandstop.edit.request import ForgetRequest

_BATCH = 250  # images whose gradient is taken at once


@dataclass(frozen=True, slots=True)
class SalUn(TrainsBatchNorm):
    """Train with random labels; weights outside the most salient share stay bit for bit.

    Fan, Liu, Zhang, Wong, Wei, Liu: SalUn (arXiv 2310.12508). `PAPER` has the values of its
    repository. Ours are fewer epochs, and labels that are never true. BatchNorm's statistics are
    not weights: they follow the images, as in the repository.

    Attributes:
        share: of all weights together, how many may move, above 0 to 1; 1 is random labels.
        true_label: whether the label may be the true one, or another forgotten class.
        epochs: passes over the retained images.
        batch: retained images a step.
        forget_batch: forgotten images a step.
        lr: of SGD with momentum 0.9.
        weight_decay: of the parameters that move.
        seed: of the labels, the order and the augmentation.
    """

    name: ClassVar[str] = "salun"
    share: float = 0.5
    true_label: bool = False
    epochs: int = 2
    batch: int = 128
    forget_batch: int = 32
    lr: float = 0.01
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        above = ("share", "epochs", "batch", "forget_batch", "lr")
        check_numbers(self, above, ("weight_decay",), up_to_one=("share",))

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
            data: its forgotten images choose the weights and are relabelled, its retained ones are
                trained on.
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
            after_step=_keeper(model, salient(model, data.forget, self.share)),
        )
        return edit_of(model, student, {"steps": steps})


def salient(model: Classifier, images: ImageSet, share: float) -> dict[str, Tensor]:
    """Return where the gradient of the loss on `images` is among the largest: name -> bool mask.

    Args:
        model: in evaluation; left as it was.
        images: with their true labels.
        share: of all entries of all parameters together.
    """
    total = {name: torch.zeros_like(w) for name, w in model.network.named_parameters()}
    for image, label in images.batches(_BATCH):
        for name, slope in gradients(model, image, label).items():
            total[name] += slope * len(image) / len(images)
    size = torch.cat([slope.abs().flatten() for slope in total.values()])
    mask = torch.zeros_like(size, dtype=torch.bool)
    # so many by rank: a threshold would let in all that equal it, such as every 0
    mask[size.topk(max(1, round(share * len(size)))).indices] = True
    parts = mask.split([slope.numel() for slope in total.values()])
    return {
        name: part.reshape(slope.shape)
        for (name, slope), part in zip(total.items(), parts, strict=True)
    }


def _keeper(model: Classifier, mask: Mapping[str, Tensor]) -> Callable[[Classifier], None]:
    """Return what puts back the weights outside of `mask`.

    SGD moves every weight by itself. So that is the same as masking the gradient, the momentum and
    the decay.
    """
    start = {name: w.detach() for name, w in model.network.named_parameters()}

    def keep_(student: Classifier) -> None:
        with torch.no_grad():
            for name, weight in student.network.named_parameters():
                weight.copy_(torch.where(mask[name], weight, start[name]))

    return keep_


PAPER = SalUn(true_label=True, epochs=10, lr=0.013)
