"""A training of WF-Net's masks under way: all that changes from step to step, and its notes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bandstop.edit import team
from bandstop.edit.batchnorm import statistics_of
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal, State, corrupt
from bandstop.edit.wf_objective import Alphas
from bandstop.edit.wf_training import Best


class Shuffled:
    """Shuffled batches without end; a last batch too small to halve is left out.

    Attributes:
        order: of this epoch's images.
        place: how many of them are drawn.
    """

    def __init__(self, images: ImageSet, size: int, generator: torch.Generator) -> None:
        """Draw batches of `size` from `images`, two or more; `generator` is drawn from late."""
        self.images = images
        self.size = size
        self.generator = generator
        self.order = torch.empty(0, dtype=torch.int64)
        self.place = 0

    def draw_(self) -> tuple[Tensor, Tensor]:
        """Return images (m, c, h, w) in [0, 1] and labels (m,) of the next batch."""
        if len(self.order) - self.place < 2:
            self.order = torch.randperm(len(self.images), generator=self.generator)
            self.place = 0
        part = self.images.take(self.order[self.place : self.place + self.size])
        self.place += len(part)
        return next(part.batches(self.size))


@dataclass(slots=True)
class Run:
    """All that decides how a training of masks goes on.

    Attributes:
        alphas: what is trained.
        network: under masks; BatchNorm's statistics may change.
        optimizer: of the alphas.
        schedule: of the learning rate.
        batches: to train on; their generator draws the rows too.
        best: what validation found so far.
        step: how many are done.
    """

    alphas: Alphas
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    batches: Shuffled
    best: Best
    step: int = 0

    @property
    def generator(self) -> torch.Generator:
        """Draws batches and rows."""
        return self.batches.generator

    def state(self) -> State:
        """Return what `restore_` goes on from."""
        best = self.best
        return {
            "alphas": {name: alpha.detach() for name, alpha in self.alphas.items()},
            "statistics": statistics_of(self.network),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "order": self.batches.order,
            "place": self.batches.place,
            "best": {
                "start": best.start,
                "alphas": best.alphas,
                "losses": best.losses,
                "step": best.step,
                "statistics": dict(best.statistics),
            },
            "step": self.step,
        }


def restore_(run: Run, journal: Journal) -> bool:
    """Bring `run` to where `journal` was noted last; return whether there was a note.

    Raises:
        InputError: the note is of a run with other settings, or not all processes can read it.
        ArtifactError: the file is corrupt.
    """
    state = journal.read()
    if state is not None:
        assert journal.file is not None  # it was read
        try:
            _take_over_(run, state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise corrupt(journal.file) from error
    _check_alike(run, journal)
    return state is not None


def _take_over_(run: Run, state: State) -> None:
    with torch.no_grad():
        noted = _like(run.alphas, state["alphas"])
        for name, alpha in run.alphas.items():
            alpha.copy_(noted[name])
    here = run.network.state_dict()
    run.network.load_state_dict({**here, **_like(here, state["statistics"])})
    run.optimizer.load_state_dict(state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    run.generator.set_state(state["generator"])
    run.batches.order, run.batches.place = state["order"].to(torch.int64), int(state["place"])
    best = state["best"]
    run.best = Best(
        float(best["start"]),
        _like(run.alphas, best["alphas"]),
        [float(loss) for loss in best["losses"]],
        int(best["step"]),
        _like(here, best["statistics"]),
    )
    run.step = int(state["step"])


def _like(ours: Mapping[str, Tensor], noted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `noted` where `ours` live; a name or shape that these have not is a ValueError."""
    unknown = [n for n, value in noted.items() if n not in ours or value.shape != ours[n].shape]
    if unknown:
        raise ValueError(f"{unknown[0]} is unknown or of another shape")
    return {name: value.to(ours[name].device) for name, value in noted.items()}


def _check_alike(run: Run, journal: Journal) -> None:
    """Refuse a team of which not all processes go on from the same step."""
    device = next(iter(run.alphas.values())).device
    steps = team.together(torch.tensor([run.step], device=device)).tolist()
    if len(set(steps)) > 1:
        raise InputError(f"{journal.file} has to be the same file for all processes of the team")
