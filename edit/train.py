"""Train a base classifier: one-cycle rate, shifts and flips, best epoch kept, resumable."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.accuracy import accuracy_on, logits
from bandstop.edit.arch import build
from bandstop.edit.augment import mirrored, shift_for, shifted
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.progress import progress
from bandstop.edit.seeds import global_draws
from bandstop.edit.storage import canonical_json, sha256, tensor_sha256
from bandstop.edit.training import Training, keep, restore_


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training images at most.
        batch: images a step.
        optimizer: sgd with Nesterov momentum, or adamw.
        lr: the peak of the one-cycle schedule.
        weight_decay: of all parameters.
        warm_up: share of the steps before the peak.
        label_smoothing: of the loss. Smoothed classes lie further apart, which later makes them
            easier to take out one by one.
        shift: pixels that an image is moved by at most, in each direction.
        flip: whether images are mirrored at random; never for characters.
        patience: stop after so many epochs without a better validation loss; None: never.
    """

    epochs: int = 15
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.4
    weight_decay: float = 5e-4
    warm_up: float = 0.25
    label_smoothing: float = 0.1
    shift: int = 4
    flip: bool = True
    patience: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained with."""
        wanted = {
            "epochs >= 1": self.epochs >= 1,
            "batch >= 2": self.batch >= 2,  # BatchNorm has no statistics of one image
            "lr > 0": 0 < self.lr < float("inf"),
            "weight_decay >= 0": 0 <= self.weight_decay < float("inf"),
            "0 < warm_up < 1": 0 < self.warm_up < 1,
            "0 <= label_smoothing < 1": 0 <= self.label_smoothing < 1,
            "shift >= 0": self.shift >= 0,
            "patience >= 1": self.patience is None or self.patience >= 1,
        }
        missed = [rule for rule, kept in wanted.items() if not kept]
        if missed:
            raise InputError(f"recipe: expected {', '.join(missed)}, got {asdict(self)}")


DIGITS = Arch("bandstop:resnet", {"width": 24, "blocks": "1-1-1"})  # for 8x8 pixels
# small grey characters, which must not be mirrored
CHARACTERS = Recipe(epochs=24, batch=64, lr=0.1, shift=1, flip=False)
PLAIN = Recipe(epochs=20, lr=0.1)  # without shortcuts a high rate diverges
TRANSFORMER = Recipe(epochs=60, optimizer="adamw", lr=1.5e-3, weight_decay=0.05)


def recipe_for(arch: Arch, data: DataSplits) -> Recipe:
    """Return the recipe that suits a network and its images; grey ones are not mirrored."""
    family = {"bandstop:vit": TRANSFORMER, "bandstop:vgg": PLAIN}.get(arch.name, Recipe())
    side = min(data.preprocess.size)
    if side < 16 and family is not TRANSFORMER:
        family = CHARACTERS
    return replace(
        family, shift=shift_for(data.preprocess.size), flip=data.preprocess.channels == 3
    )


def without_classes(data: DataSplits, classes: Sequence[int]) -> DataSplits:
    """Return `data` with no training and validation image of `classes`; all else stays.

    Class names and preprocessing stay as well, so that a network retrained on this can be compared
    with one trained on everything.
    """
    return replace(
        data,
        train=data.train.without_classes(classes),
        validate=data.validate.without_classes(classes),
    )


def train(
    arch: Arch,
    data: DataSplits,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "cpu",
    start: Mapping[str, Tensor] | None = None,
    partial: Path | None = None,
    trust_factory: bool = False,
) -> Classifier:
    """Return a classifier of `arch` trained on `data.train`, at its best epoch on `data.validate`.

    Args:
        arch: the network.
        data: training and validation images; a class may be missing from both.
        recipe: how to train.
        seed: of weights, order and augmentation; the same seed gives the same bytes on the CPU.
        device: where to train.
        start: the weights to start from, of a network of the same kind; None draws them.
        partial: the state is written here after every epoch, and read from here when it exists;
            a run that was interrupted and goes on ends with the same bytes.
        trust_factory: see `build`.

    Raises:
        InputError: too few images, `start` is of another network, or `partial` of another training.
        ArtifactError: `partial` is corrupt.
        DivergedError: the loss became NaN or infinite.
    """
    if len(data.train) < 2 or not len(data.validate):
        raise InputError("training needs at least two training images and one validation image")
    prep, names = data.preprocess, data.class_names
    network = build(
        arch, len(names), prep.channels, prep.size, seed=seed, trust_factory=trust_factory
    )
    if start is not None:
        _load_(network, start, arch)
    training = _start(Classifier(network, arch, prep, names).to(device), data, recipe, seed)
    settings = training_digest(arch, data, recipe, seed, start)
    if partial is not None and partial.exists():
        restore_(training, settings, partial)
    for _ in progress(range(training.epoch, recipe.epochs), "train"):
        if recipe.patience and training.epoch - training.best_epoch >= recipe.patience:
            break
        _epoch_(training, data.train, recipe)
        _judge_(training, data.validate)
        if partial is not None:
            keep(training, settings, partial)
    training.model.network.load_state_dict(training.best)
    return training.model


def validation_accuracy(model: Classifier, data: DataSplits) -> float:
    """Return the accuracy on the validation images."""
    return accuracy_on(model, data.validate)


def _start(model: Classifier, data: DataSplits, recipe: Recipe, seed: int) -> Training:
    parameters, decay = list(model.network.parameters()), recipe.weight_decay
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, recipe.lr, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(
            parameters, recipe.lr, momentum=0.9, nesterov=True, weight_decay=decay
        )
    return Training(model, optimizer, torch.Generator().manual_seed(seed))


def one_cycle(step: int, steps: int, warm_up: float) -> float:
    """Return the rate at `step` of `steps` as a share of its peak (Smith and Topin 2018).

    It rises from 1/25 along a cosine until `warm_up` of the steps are done, then falls to zero.
    """
    # PyTorch's own scheduler divides by zero where the rise is one step long
    peak = warm_up * steps
    if step < peak:
        return 1 - 0.96 * (1 + math.cos(math.pi * step / peak)) / 2
    return (1 + math.cos(math.pi * (step - peak) / (steps - peak))) / 2


def _load_(network: nn.Module, start: Mapping[str, Tensor], arch: Arch) -> None:
    try:
        network.load_state_dict(start)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"the weights to start from do not fit {arch.name}: {reason}") from error


def training_digest(
    arch: Arch,
    data: DataSplits,
    recipe: Recipe,
    seed: int,
    start: Mapping[str, Tensor] | None,
) -> str:
    """Return a digest of all that decides the outcome."""
    parts = (data.train.index, data.train.labels, data.validate.index, data.validate.labels)
    record = {
        "arch": [arch.name, dict(arch.args)],
        "recipe": asdict(recipe),
        "seed": seed,
        "classes": data.class_names,
        "preprocess": asdict(data.preprocess),
        "images": [tensor_sha256(part) for part in parts],
    }
    if start is not None:
        record["start"] = {name: tensor_sha256(value) for name, value in sorted(start.items())}
    return sha256(canonical_json(record))


def _epoch_(training: Training, images: ImageSet, recipe: Recipe) -> None:
    model, generator = training.model, training.generator
    model.train()
    steps = recipe.epochs * (-(-len(images) // recipe.batch))
    with global_draws(generator, model.mean.device):
        for image, label in images.batches(recipe.batch, generator):
            if len(label) > 1:  # one image has no statistics for BatchNorm
                rate = recipe.lr * one_cycle(training.step, steps, recipe.warm_up)
                _step_(training, _augmented(image, recipe, generator), label, recipe, rate)
    model.eval()
    training.epoch += 1


def _step_(training: Training, image: Tensor, label: Tensor, recipe: Recipe, rate: float) -> None:
    device = training.model.mean.device
    answer = training.model(image.to(device))
    loss = F.cross_entropy(answer, label.to(device), label_smoothing=recipe.label_smoothing)
    if not bool(torch.isfinite(loss)):
        raise DivergedError(f"training: the loss is {loss.item()}; lower lr ({recipe.lr})")
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    training.step += 1


def _augmented(image: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    if recipe.shift:
        image = shifted(image, recipe.shift, generator)
    return mirrored(image, generator) if recipe.flip else image


def _judge_(training: Training, images: ImageSet) -> None:
    """Keep the weights if they are the best so far on `images`."""
    loss = F.cross_entropy(logits(training.model, images), images.labels).item()
    if not loss < float("inf"):
        raise DivergedError(f"training: the validation loss is {loss}; lower lr")
    if loss < training.best_loss:
        training.best_loss, training.best_epoch = loss, training.epoch
        state = training.model.network.state_dict()
        training.best = {name: value.detach().clone() for name, value in state.items()}
