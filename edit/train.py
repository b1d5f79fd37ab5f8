"""Train a base classifier: one-cycle rate, shifts and flips, early stop, resumable."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.accuracy import accuracy, logits
from bandstop.edit.arch import build
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import ArtifactError, DivergedError, InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.progress import progress
from bandstop.edit.storage import replace_file


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training images at most.
        batch: images a step.
        optimizer: sgd with Nesterov momentum 0.9, or adamw.
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


DIGITS = Arch("bandstop:resnet", {"width": 24, "blocks": "1-1-1"})  # for 8x8 pixels
# small grey characters, which must not be mirrored
CHARACTERS = Recipe(epochs=24, batch=64, lr=0.1, shift=1, flip=False)
TRANSFORMER = Recipe(epochs=60, optimizer="adamw", lr=1.5e-3, weight_decay=0.05)


def recipe_for(arch: Arch, data: DataSplits) -> Recipe:
    """Return the recipe that suits a network and the size of its images."""
    if arch.name == "bandstop:vit":
        return TRANSFORMER
    return CHARACTERS if data.preprocess.size[0] < 16 else Recipe()


@dataclass(slots=True)
class _Run:
    """All that has to be kept to go on after an interruption."""

    epoch: int = 0
    best_loss: float = float("inf")
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)


def train(
    arch: Arch,
    data: DataSplits,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "cpu",
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
        partial: the state is written here after every epoch, and read from here when it exists;
            a run that was interrupted and goes on ends with the same bytes.
        trust_factory: see `build`.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    if len(data.train) < 2 or not len(data.validate):
        raise InputError("training needs at least two training images and one validation image")
    prep = data.preprocess
    network = build(
        arch,
        len(data.class_names),
        prep.channels,
        prep.size,
        seed=seed,
        trust_factory=trust_factory,
    )
    model = Classifier(network, arch, prep, data.class_names).to(device)
    steps = recipe.epochs * _steps(len(data.train), recipe.batch)
    optimizer = _optimizer(recipe, model.network)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=steps, pct_start=recipe.warm_up
    )
    generator = torch.Generator().manual_seed(seed)
    run = _resume(partial, model, optimizer, schedule, generator)
    for _ in progress(range(run.epoch, recipe.epochs), "train"):
        _epoch_(model, data.train, recipe, optimizer, schedule, generator)
        _judge_(run, model, data.validate)
        if partial is not None:
            replace_file(partial, _dump(run, model, optimizer, schedule, generator))
        if recipe.patience is not None and run.epoch - run.best_epoch >= recipe.patience:
            break
    model.network.load_state_dict(run.best)
    return model.eval()


def augment(image: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return `image` (n, c, h, w) with each picture shifted, and mirrored half of the time."""
    n, _, height, width = image.shape
    if recipe.shift:
        s = recipe.shift
        padded = F.pad(image, (s, s, s, s))
        dy, dx = torch.randint(0, 2 * s + 1, (2, n), generator=generator)
        rows = (dy[:, None] + torch.arange(height))[:, :, None]  # (n, h, 1)
        columns = (dx[:, None] + torch.arange(width))[:, None, :]  # (n, 1, w)
        image = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns]
        image = image.permute(0, 3, 1, 2).contiguous()
    if recipe.flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
    return image


def _steps(images: int, batch: int) -> int:
    # a last batch of one image has no statistics for BatchNorm and is left out
    return -(-images // batch) - (images % batch == 1)


def _optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )


def _epoch_(
    model: Classifier,
    images: ImageSet,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> None:
    model.train()
    for image, label in images.batches(recipe.batch, generator):
        if len(label) < 2:
            continue
        answer = model(augment(image, recipe, generator).to(model.mean))
        target = label.to(model.mean.device)
        loss = F.cross_entropy(answer, target, label_smoothing=recipe.label_smoothing)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(f"training: the loss is {loss.item()}; lower lr ({recipe.lr})")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _judge_(run: _Run, model: Classifier, images: ImageSet) -> None:
    answers = logits(model, images)
    loss = F.cross_entropy(answers, images.labels).item()
    run.epoch += 1
    if loss < run.best_loss:
        run.best_loss, run.best_epoch = loss, run.epoch
        run.best = {k: v.detach().clone() for k, v in model.network.state_dict().items()}


def validation_accuracy(model: Classifier, data: DataSplits) -> float:
    """Return the accuracy on the validation images."""
    return accuracy(logits(model, data.validate).argmax(1), data.validate.labels)


def _dump(
    run: _Run,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> bytes:
    state = {
        "epoch": run.epoch,
        "best_loss": run.best_loss,
        "best_epoch": run.best_epoch,
        "best": run.best,
        "network": model.network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {k: v for k, v in schedule.state_dict().items() if k != "_anneal_func_type"},
        "generator": generator.get_state(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _resume(
    partial: Path | None,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
) -> _Run:
    if partial is None or not partial.exists():
        return _Run()
    try:
        state: Mapping[str, object] = torch.load(partial, weights_only=True)
        model.network.load_state_dict(state["network"])  # type: ignore[arg-type]  # checked by torch
        optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]  # checked by torch
        schedule.load_state_dict(schedule.state_dict() | state["schedule"])  # type: ignore[operator]  # a dict
        generator.set_state(state["generator"])  # type: ignore[arg-type]  # checked by torch
        return _Run(state["epoch"], state["best_loss"], state["best_epoch"], state["best"])  # type: ignore[arg-type]  # as _dump wrote them
    except Exception as error:
        raise ArtifactError(
            f"{partial}: not the state of this training; remove it to start again"
        ) from error
