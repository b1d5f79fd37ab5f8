"""Where things are in a model repository, who may change it, how a half-made change is undone."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bandstop.export.config import served_versions
from bandstop.export.disk import Disk
from bandstop.export.errors import ReleaseError, SpecError
from bandstop.export.record import CONFIG
from bandstop.export.stage import undo

_VERSION = re.compile(r"[1-9][0-9]{0,8}")  # Triton aborts on more digits than a long long holds
_STAGE = re.compile(r"(?P<model>[a-z0-9][a-z0-9_-]{0,63})-(?P<version>0|[1-9][0-9]{0,8})")
_INSIDE = ".stage-"


@contextmanager
def locked(root: Path, disk: Disk) -> Iterator[list[Path]]:
    """Keep other publishers out of the repository `root`, made and swept of leftovers.

    Gives the leftovers that were swept.
    """
    lock = os.open(root.parent / f".{root.name}.lock", os.O_WRONLY | os.O_CREAT, 0o644)
    with os.fdopen(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        made = not root.exists()
        if made:
            disk.make(root)
        try:
            yield sweep(root, disk)
        finally:
            if made and not any(root.iterdir()):
                root.rmdir()


def stage_of(root: Path, model: str, version: int, disk: Disk) -> Path:
    """Return where a change is staged: on the same file system, not seen by servers.

    Args:
        root: the repository.
        model: whose change it is.
        version: the version that it adds; 0 for none.
        disk: knows which folders share a file system.
    """
    if disk.same_device(root, root.parent):
        return root.parent / f"{_stage_prefix(root)}{model}-{version}"
    # the repository is a mount point: a dot folder at its root would keep servers from starting
    return root / model / f"{_INSIDE}{model}-{version}"


def is_stage(name: str) -> bool:
    """Return whether an entry of a model's folder is a stage of ours."""
    return name.startswith(_INSIDE) and bool(_STAGE.fullmatch(name.removeprefix(_INSIDE)))


def _stage_prefix(root: Path) -> str:
    return f".{root.name}.stage-"


def sweep(root: Path, disk: Disk) -> list[Path]:
    """Undo changes that were interrupted before their commit; return the stages removed."""
    beside = [(p, _stage_prefix(root)) for p in root.parent.iterdir()]
    folders = [p for p in root.iterdir() if p.is_dir() and not p.is_symlink()]
    inside = [(p, _INSIDE) for folder in folders for p in folder.iterdir()]
    swept = []
    for stage, prefix in (*beside, *inside):
        match = _STAGE.fullmatch(stage.name.removeprefix(prefix))
        if not stage.name.startswith(prefix) or match is None or not stage.is_dir():
            continue
        undo(root / match["model"], stage, int(match["version"]), disk)
        swept.append(stage)
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            disk.remove(folder)  # the first moment of a first publish; servers stumble over it
    return swept


def version_numbers(folder: Path) -> list[int]:
    """Return the versions in the model `folder`, ascending."""
    return sorted(
        int(p.name) for p in folder.iterdir() if p.is_dir() and _VERSION.fullmatch(p.name)
    )


def versions_served(folder: Path) -> tuple[int, ...]:
    """Return the versions that the config.pbtxt in the model `folder` serves; none without one.

    Raises:
        ReleaseError: the file is unreadable.
    """
    config = folder / CONFIG
    if not config.is_file():
        return ()
    try:
        return served_versions(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseError(f"{config}: {error}; mend it by hand") from error


def repository_root(repo: Path, *, there: bool = False) -> Path:
    """Return the absolute path of the repository `repo`.

    Args:
        repo: its path.
        there: whether it must be there already.

    Raises:
        SpecError: it is a file or a model's folder, cannot be made, or is not there.
    """
    root = repo.resolve()
    if root.exists() and not root.is_dir():
        raise SpecError(f"repository {repo}: expected a folder, got a file")
    if there and not root.is_dir():
        raise SpecError(f"repository {repo}: no such folder; publish a release into it first")
    if not root.parent.is_dir():
        raise SpecError(f"repository {repo}: its parent folder does not exist; create it first")
    if (root / CONFIG).exists():
        raise SpecError(f"repository {repo}: this is a model's folder; name the folder around it")
    return root
