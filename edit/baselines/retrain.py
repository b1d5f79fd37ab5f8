"""Retraining: the reference for every other method, a network that never saw what is forgotten."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from bandstop.edit.baselines.training import (
    TrainsBatchNorm,
    check_images,
    edit_of,
)
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.images import DataSplits
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.request import ForgetRequest
from bandstop.edit.train import recipe_for, train


@dataclass(frozen=True, slots=True)
class Retrain(TrainsBatchNorm):
    """Train anew on the retained images alone, by the recipe of `bandstop train`.

    It is of no paper, and what it is compared with was trained by the same recipe.

    Attributes:
        epochs: passes over the retained images; None leaves it to the recipe.
        seed: of the weights, the order and the augmentation. With the seed that the model itself
            was trained with, both start from the same weights.
    """

    name: ClassVar[str] = "retrain"
    epochs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        if self.epochs is not None:
            check_numbers(self, ("epochs",))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit that turns `model` into the new network; `model` is left as it was.

        Args:
            model: tells the network, not its weights.
            request: its classes are left out of the validation images.
            data: trained on what is retained, the best epoch chosen by the validation images.
            journal: its file holds the state of the training, to go on from.

        Raises:
            InputError: too few images; or see `train`.
            ArtifactError: the journal's file is corrupt.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "retain")
        sets = _sets(model, request, data)
        recipe = recipe_for(model.arch, sets)
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs)
        fresh = train(
            model.arch,
            sets,
            recipe,
            seed=self.seed,
            device=str(model.mean.device),
            partial=journal.file if journal else None,
            trust_factory=True,  # its code ran already, when `model` was loaded
        )
        return edit_of(model, _folded_like(model, fresh), {"epochs": recipe.epochs})


def _sets(model: Classifier, request: ForgetRequest, data: Splits) -> DataSplits:
    validate = data.validate.without_classes(request.classes)
    nothing = data.validate.take(torch.arange(0))  # training asks no test images
    return DataSplits(data.retain, validate, nothing, model.class_names, model.preprocess)


def _folded_like(model: Classifier, fresh: Classifier) -> Classifier:
    """Return `fresh` with BatchNorm folded as in `model`, so that their weights have one name."""
    if not model.bn_folded:
        return fresh
    return fold_batchnorm(fresh, shift="apart" if model.bn_folded == "apart" else "inside")
