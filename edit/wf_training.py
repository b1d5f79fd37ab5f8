"""What a training of WF-Net's masks is made of: how they move, and when they stop."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bandstop.edit.errors import DivergedError
from bandstop.edit.gates import bias_of
from bandstop.edit.wf_objective import Alphas


def masks_of(alphas: Alphas, names: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the masks of all `names`; a bias without alphas of its own has its weight's masks."""
    masks = {name: torch.sigmoid(alpha) for name, alpha in alphas.items()}
    of_bias = {bias_of(name): mask for name, mask in masks.items()}
    return {name: masks[name] if name in masks else of_bias[name].clone() for name in names}


def clamp_(alphas: Alphas, bound: float) -> None:
    """Clamp every alpha to [-bound, bound], in place."""
    with torch.no_grad():
        for alpha in alphas.values():
            alpha.clamp_(-bound, bound)


def is_check(step: int, per_epoch: int, every: int | None) -> bool:
    """Return whether validation follows `step` (from 1): each `every`, or five times an epoch."""
    if every is not None:
        return step % every == 0
    within = (step - 1) % per_epoch + 1
    return within in {round(j * per_epoch / 5) for j in range(1, 6)}


@dataclass(slots=True)
class Best:
    """The best alphas so far by validation loss, and whether patience has run out.

    Attributes:
        start: the validation loss before the first step.
        alphas: those of the lowest loss.
        losses: all validation losses, without `start`.
        step: after which `alphas` were seen.
        statistics: BatchNorm's at that time, where they adapt.
    """

    start: float = float("inf")
    alphas: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    step: int = 0
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    def see_(
        self, step: int, alphas: Alphas, loss: float, statistics: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a copy of `alphas`, and `statistics`, when `loss` is the lowest yet.

        Raises:
            DivergedError: `loss` is not a finite number.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"wf-net: the validation loss is {loss} at step {step}; lower lr")
        if not self.losses or loss < min(self.losses):
            self.alphas = {name: alpha.detach().clone() for name, alpha in alphas.items()}
            self.statistics = statistics or {}
            self.step = step
        self.losses.append(loss)

    def exhausted(self, patience: int | None) -> bool:
        """Return whether the last `patience` validations brought nothing better."""
        if patience is None or not self.losses:
            return False
        return len(self.losses) - 1 - self.losses.index(min(self.losses)) >= patience

    def check(self) -> None:
        """Refuse a run that ended worse than it began.

        Raises:
            DivergedError: no validation loss is as low as the one before the first step.
        """
        if min(self.losses) > self.start:
            raise DivergedError(
                f"wf-net: the validation loss was {self.start:.4g} before the first step and never "
                f"came below {min(self.losses):.4g}; lower lr or lambda1, or give more steps"
            )


def optimizer_of(alphas: Alphas, kind: Literal["adam", "sgd"], lr: float) -> torch.optim.Optimizer:
    """Return the optimiser of `alphas`; sgd has no momentum."""
    values = list(alphas.values())
    return torch.optim.Adam(values, lr=lr) if kind == "adam" else torch.optim.SGD(values, lr=lr)


def schedule_of(
    optimizer: torch.optim.Optimizer,
    kind: Literal["one-cycle", "constant"],
    lr: float,
    steps: int,
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning rate's course over `steps`, `lr` at its highest."""
    if kind == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=steps, cycle_momentum=False
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
