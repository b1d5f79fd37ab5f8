"""SSD: shrink the weights that matter more to what is to be forgotten than to everything."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bandstop.edit.baselines.gradients import gradients
from bandstop.edit.baselines.training import check_images
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit, changed
from bandstop.edit.errors import NothingForgottenError
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.progress import progress
from bandstop.edit.request import ForgetRequest
from bandstop.edit.seeds import seeded


@dataclass(frozen=True, slots=True)
class SSD:
    """Selective synaptic dampening: no training, one look at the gradients.

    Foster, Schoepf, Brintrup: Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening (arXiv 2308.07707). `PAPER` has the values of its repository, which looks at all
    images. It runs on the network with BatchNorm folded. `found` has the share of all weights that
    were shrunk.

    Attributes:
        alpha: a weight is shrunk where its importance to the forgotten images is more than so many
            times its importance to all images.
        strength: the paper's lambda; a chosen weight is multiplied by `strength` times importance
            to all by importance to the forgotten, or by 1 if that is less.
        images: forgotten images that are looked at, and images of all, at most; None looks at
            every one.
        batch: images whose gradient is averaged before it is squared, as in the repository; the
            batches of all images are mixed. 1 is the paper's Fisher information. With it no weight
            can matter more than 1 / (share of the forgotten images) times as much to these: 10
            times for one of ten classes, so that `alpha` has to be far below.
        seed: of which images, and of the batches.
    """

    name: ClassVar[str] = "ssd"
    alpha: float = 50.0
    strength: float = 1.0
    images: int | None = 2000
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        sample = () if self.images is None else ("images",)
        check_numbers(self, ("alpha", "batch", *sample), ("strength",))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit of the weights that shrink; `model` is left as it was.

        Args:
            model: what is to forget.
            request: only tells which images are forgotten.
            data: its forgotten and retained images are looked at.
            journal: unused; it takes seconds.

        Raises:
            InputError: no images to forget or to retain.
            NothingForgottenError: no weight matters enough more to the forgotten images.
        """
        check_images(self, data, "forget", "retain")
        forgotten = self._importance(model, data.forget)
        every = self._importance(model, _together(data.forget, data.retain))
        factors = {name: self.factor(forgotten[name], every[name]) for name in every}
        share = _share_below_1(factors)
        if not share:
            raise NothingForgottenError(
                f"{self.name}: no weight matters more than {self.alpha} times as much to what is "
                "to be forgotten as to all images; lower alpha (or strength)"
            )
        before = model.network.state_dict()
        after = {**before, **{name: before[name] * factor for name, factor in factors.items()}}
        return WeightEdit(changed(before, after), {"dampened": share})

    def factor(self, forgotten: Tensor, every: Tensor) -> Tensor:
        """Return what each weight is multiplied with, by its importances; 1 where none has any."""
        factor = (self.strength * every / forgotten).clamp(max=1)  # 0 / 0 is not chosen below
        return torch.where(forgotten > self.alpha * every, factor, 1.0)

    def _importance(self, model: Classifier, images: ImageSet) -> dict[str, Tensor]:
        generator = seeded(self.seed)
        some = images.take(torch.randperm(len(images), generator=generator)[: self.images])
        return importance(model, some, self.batch, f"{self.name} ({len(some)} images)")


def importance(model: Classifier, images: ImageSet, batch: int, what: str) -> dict[str, Tensor]:
    """Return the mean squared gradient of the loss for every entry of every parameter.

    Args:
        model: in evaluation; left as it was.
        images: with their true labels, in the order of the batches.
        batch: images whose gradient is averaged before it is squared.
        what: names the work, for progress.
    """
    total = {name: torch.zeros_like(w) for name, w in model.network.named_parameters()}
    for start in progress(range(0, len(images), batch), what):
        part = images.take(torch.arange(start, min(start + batch, len(images))))
        image, label = next(part.batches(batch))
        for name, slope in gradients(model, image, label).items():
            total[name] += slope**2 * len(part) / len(images)
    return total


def _share_below_1(factors: Mapping[str, Tensor]) -> float:
    chosen = sum(int((factor < 1).sum()) for factor in factors.values())
    return chosen / sum(factor.numel() for factor in factors.values())


def _together(one: ImageSet, other: ImageSet) -> ImageSet:
    assert one.images is other.images  # both are parts of one training set
    both = zip((one.index, one.labels), (other.index, other.labels), strict=True)
    return ImageSet(one.images, *(torch.cat(pair) for pair in both))


PAPER = SSD(alpha=10.0, images=None, batch=64)
