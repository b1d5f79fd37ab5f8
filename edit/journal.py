"""What a long run notes of its state: after a kill it goes on and ends with the same bytes."""

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bandstop.edit import team
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.storage import replace_file

State = Mapping[str, Any]  # tensors, numbers, strings, and lists and mappings of these


@dataclass(slots=True)
class Journal:
    """Where a run notes its state, and how often.

    Attributes:
        file: holds the last state; None notes nothing.
        settings: a digest of all that decides the outcome, which tells the file from others.
        cache: a folder for what takes long to make and can be used again; None keeps nothing.
        every: seconds between two notes at least; the last moments are made again after a kill.
    """

    file: Path | None = None
    settings: str = ""
    cache: Path | None = None
    every: float = 20.0
    _noted: float = 0.0

    def read(self) -> State | None:
        """Return the state that was noted last; None where nothing was.

        Raises:
            InputError: the file is of a run with other settings.
            ArtifactError: the file is corrupt.
        """
        if self.file is None or not self.file.exists():
            return None
        return read_state(self.file, self.settings)

    def note_(self, state: Callable[[], State]) -> None:
        """Write what `state` returns, unless the last note is too fresh; of a team one writes."""
        now = time.monotonic()
        if self.file is None or team.rank() > 0 or (self._noted and now - self._noted < self.every):
            return
        write_state(self.file, self.settings, state())
        self._noted = time.monotonic()

    def remove_(self) -> None:
        """Remove the file, which nobody needs once the run has ended."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def write_state(file: Path, settings: str, state: State) -> None:
    """Write `state` to `file`, which is the old one or the new one at any moment."""
    buffer = io.BytesIO()
    torch.save({**state, "settings": settings}, buffer)
    replace_file(file, buffer.getvalue())


def read_state(file: Path, settings: str) -> State:
    """Return the state in `file`; nothing in the file is executed.

    Raises:
        InputError: the file is of a run with other settings.
        ArtifactError: the file is corrupt.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own errors
        raise corrupt(file) from error
    if not isinstance(state, Mapping):
        raise corrupt(file)
    if state.get("settings") != settings:
        raise InputError(
            f"{file} is of a run with other settings or data; "
            "give the same ones again, or remove it to start anew"
        )
    return state


def corrupt(file: Path) -> ArtifactError:
    """Return the error of a file that holds no state, or not the expected one."""
    return ArtifactError(f"{file}: not the state of a run; remove it to start anew")
