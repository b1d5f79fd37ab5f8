"""A training under way, and how it is kept in a file to go on after an interruption."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.storage import replace_file


@dataclass(slots=True)
class Training:
    """All that decides how a training goes on.

    Attributes:
        model: in training.
        optimizer: of its parameters.
        generator: draws order and augmentation.
        epoch: how many are done.
        step: how many batches are done.
        best: the state dict of the network after the epoch with the lowest validation loss.
        best_loss: that loss.
        best_epoch: that epoch, counted from 1.
    """

    model: Classifier
    optimizer: Optimizer
    generator: torch.Generator
    epoch: int = 0
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = float("inf")
    best_epoch: int = 0


def keep(training: Training, settings: str, partial: Path) -> None:
    """Write the state of `training` to `partial`; `settings` tells it from other trainings."""
    state = {
        "settings": settings,
        "network": training.model.network.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "generator": training.generator.get_state(),
        "epoch": training.epoch,
        "step": training.step,
        "best": training.best,
        "best_loss": training.best_loss,
        "best_epoch": training.best_epoch,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(partial, buffer.getvalue())


def restore_(training: Training, settings: str, partial: Path) -> None:
    """Bring `training` to where `partial` was written; nothing in the file is executed.

    Raises:
        InputError: the file is of a training with other settings.
        ArtifactError: the file is corrupt.
    """
    state = _read(partial)
    if state.get("settings") != settings:
        raise InputError(
            f"{partial} is of a training with other settings or data; "
            "give the same ones again, or remove it to start anew"
        )
    try:
        training.model.network.load_state_dict(state["network"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.generator.set_state(state["generator"])
        training.epoch, training.step = state["epoch"], state["step"]
        training.best = state["best"]
        training.best_loss, training.best_epoch = state["best_loss"], state["best_epoch"]
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise _corrupt(partial) from error


def _read(partial: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(partial, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own errors
        raise _corrupt(partial) from error
    if not isinstance(state, Mapping):
        raise _corrupt(partial)
    return state


def _corrupt(partial: Path) -> ArtifactError:
    return ArtifactError(f"{partial}: not the state of a training; remove it to start anew")
