"""A run of L2UL under way: its state, how it is noted, and what is said of its end."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import DivergedError, NothingForgottenError
from bandstop.edit.journal import Journal, State, corrupt

Status = Literal["forgot", "cap", "diverged"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """A run under way.

    Attributes:
        student: the network that moves.
        mover: its optimiser.
        step: how many are done.
        losses: of each step.
        left: share of the instances that is not where it shall be, at its lowest.
        best: the state dict of the network then.
        forgot_at: the step at which all instances were first where they shall be.
        near: positions of the instances that are still pushed, by the last look; None: all.
    """

    student: Classifier
    mover: Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)
    left: float = math.inf
    best: Mapping[str, Tensor] = field(default_factory=dict)
    forgot_at: int | None = None
    near: Tensor | None = None

    def state(self) -> State:
        """Return all that decides how the run goes on."""
        return {
            "network": self.student.network.state_dict(),
            "optimizer": self.mover.state_dict(),
            "step": self.step,
            "losses": list(self.losses),
            "left": self.left,
            "best": dict(self.best),
            "forgot_at": self.forgot_at,
            "near": self.near,
        }

    def restore_(self, journal: Journal) -> None:
        """Go to where `journal` was written last, if it was.

        Raises:
            InputError, ArtifactError: see `Journal.read`.
        """
        state = journal.read()
        if state is None:
            return
        try:
            self.student.network.load_state_dict(state["network"])
            self.mover.load_state_dict(state["optimizer"])
            self.step, self.losses = state["step"], state["losses"]
            self.left, self.best = state["left"], state["best"]
            self.forgot_at, self.near = state["forgot_at"], state["near"]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            assert journal.file is not None  # it was read
            raise corrupt(journal.file) from error


def look_(run: Run, left: float, settle: int) -> Status | None:
    """Keep the weights if they are the best so far; return that the run has ended, or None.

    Args:
        run: between two steps.
        left: share of the instances that is not where it shall be.
        settle: steps that follow once all are.
    """
    settling = run.forgot_at is not None
    if left < run.left or (settling and left == run.left):
        run.left = left
        run.best = {k: v.clone() for k, v in run.student.network.state_dict().items()}
    if not left and run.forgot_at is None:
        run.forgot_at = run.step
    done = run.forgot_at is not None and run.step - run.forgot_at >= settle
    return "forgot" if done else None


def check_moved(run: Run, status: Status, left_before: float) -> None:
    """Warn of a run that did not get to its end, and refuse one that got nowhere."""
    if status == "forgot":
        return
    if run.left >= left_before:
        kind = DivergedError if status == "diverged" else NothingForgottenError
        hint = "lower lr" if status == "diverged" else "raise eps, max_steps or lr"
        raise kind(f"l2ul: no instance was forgotten in {run.step} steps ({status}); {hint}")
    log.warning(
        "l2ul: %.1f %% of the instances are not forgotten (%s after %d steps); the best weights on "
        "the way are kept",
        100 * run.left,
        status,
        run.step,
    )


def rates(network: nn.Module, lr: float, depth: float) -> list[dict[str, object]]:
    """Return the groups of an optimiser: every layer's parameters with the rate it learns at."""
    layers: dict[str, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        layers.setdefault(name.rpartition(".")[0], []).append(parameter)
    each = {name: lr * (i / len(layers)) ** depth for i, name in enumerate(layers, 1)}
    return [
        {"params": own, "lr": each[name], "initial_lr": each[name]} for name, own in layers.items()
    ]


def slow_down_(mover: Optimizer, share: float) -> None:
    """Let every group learn at `share` of its rate."""
    for group in mover.param_groups:
        group["lr"] = share * group["initial_lr"]
