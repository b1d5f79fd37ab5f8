"""Where a repository is changed, and who proves it."""

from dataclasses import dataclass
from pathlib import Path

from bandstop.export.disk import Disk
from bandstop.export.serving import Server


@dataclass(frozen=True, slots=True)
class Place:
    """Where a change happens.

    Attributes:
        root: the repository, locked by whoever changes it.
        disk: how files are changed.
        server: which serves the repository and must prove the change; None for files alone.
    """

    root: Path
    disk: Disk
    server: Server | None
