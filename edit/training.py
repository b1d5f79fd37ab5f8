"""A training under way, and how it is kept in a file to go on after an interruption."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from bandstop.edit.classifier import Classifier
from bandstop.edit.journal import corrupt, read_state, write_state


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
        "network": training.model.network.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "generator": training.generator.get_state(),
        "epoch": training.epoch,
        "step": training.step,
        "best": training.best,
        "best_loss": training.best_loss,
        "best_epoch": training.best_epoch,
    }
    write_state(partial, settings, state)


def restore_(training: Training, settings: str, partial: Path) -> None:
    """Bring `training` to where `partial` was written; nothing in the file is executed.

    Raises:
        InputError: the file is of a training with other settings.
        ArtifactError: the file is corrupt.
    """
    state = read_state(partial, settings)
    try:
        training.model.network.load_state_dict(state["network"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.generator.set_state(state["generator"])
        training.epoch, training.step = state["epoch"], state["step"]
        training.best = state["best"]
        training.best_loss, training.best_epoch = state["best_loss"], state["best_epoch"]
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise corrupt(partial) from error
