"""Look a model repository over: sweep what an interrupted change left, tell every hazard.

What only a server stumbles over (names read as versions, files that are executed) is known to
`bandstop.serve.hazards`; the command line puts both together.
"""

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bandstop.export.disk import Disk
from bandstop.export.doctor_ensemble import about_part
from bandstop.export.doctor_model import about_model
from bandstop.export.ensemble import part_of
from bandstop.export.errors import DiskError
from bandstop.export.finding import Finding
from bandstop.export.layout import repository_root
from bandstop.export.repository import changing

_SLACK = 60.0  # seconds by which the clocks of two machines may differ


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found in a repository.

    Attributes:
        swept: leftovers of interrupted changes, which are undone and gone now.
        findings: what is left to be mended.
    """

    swept: tuple[str, ...]
    findings: tuple[Finding, ...]


def doctor(repo: Path, *, disk: Disk | None = None) -> Diagnosis:
    """Sweep leftovers of ours in `repo` and return every hazard; nothing else is changed.

    Raises:
        SpecError: `repo` is no repository.
    """
    root = repository_root(repo, there=True)
    swept, findings = _sweep(root, disk)
    for folder in sorted(root.iterdir()):
        if folder.is_symlink():
            findings.append(
                Finding(
                    folder.name,
                    "a link: a change of what it points to is not seen by servers",
                    "put the folder itself there",
                )
            )
        elif folder.is_dir() and (model := part_of(folder)) is not None:
            findings += about_part(folder, model)
        elif folder.is_dir() and not folder.name.startswith("."):
            findings += about_model(folder)
        elif not folder.is_dir():
            findings.append(Finding(folder.name, "a foreign file", "remove it"))
    findings += _about_files(root)
    return Diagnosis(tuple(p.name for p in swept), tuple(findings))


def _sweep(root: Path, disk: Disk | None) -> tuple[list[Path], list[Finding]]:
    before = {p.name for p in (*root.parent.iterdir(), *root.glob("*/.stage-*"))}
    try:
        with changing(root, None, disk, there=True):
            pass
    except DiskError as error:
        mend = "run the doctor as the user who publishes"
        return [], [Finding(".", f"leftovers could not be swept: {error}", mend)]
    now = {p.name for p in (*root.parent.iterdir(), *root.glob("*/.stage-*"))}
    return [Path(name) for name in sorted(before - now)], []


def _about_files(root: Path) -> Iterator[Finding]:
    """Tell of times and permissions that would harm."""
    latest = time.time() + _SLACK
    for path in (root, *sorted(root.rglob("*"))):
        about = path.lstat()
        where = os.fspath(path.relative_to(root))
        if about.st_mtime > latest:
            yield Finding(
                where,
                "dated in the future: Triton takes nothing older for a change",
                f"touch {path}, then restart the server",
            )
        if about.st_mode & stat.S_IWOTH and not stat.S_ISLNK(about.st_mode):
            yield Finding(where, "may be written by everybody", f"chmod o-w {path}")
