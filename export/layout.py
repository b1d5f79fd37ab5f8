"""Where things are in a model repository, who may change it, how a half-made change is undone."""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bandstop.export.config import served_versions
from bandstop.export.disk import Disk
from bandstop.export.errors import ReleaseError, SpecError
from bandstop.export.record import CONFIG, LABELS

LABELS_BEFORE = "labels.before"  # in a stage
_VERSION = re.compile(r"[1-9][0-9]{0,8}")  # Triton aborts on more digits than a long long holds
_STAGE = re.compile(r"(?P<model>[a-z0-9][a-z0-9_-]{0,63})-(?P<version>[1-9][0-9]{0,8})")


@contextmanager
def locked(root: Path, disk: Disk) -> Iterator[None]:
    """Keep other publishers out of the repository `root`, made and swept of leftovers."""
    with (root.parent / f".{root.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        made = not root.exists()
        if made:
            disk.make(root)
        try:
            sweep(root, disk)
            yield
        finally:
            if made and not any(root.iterdir()):
                root.rmdir()


def stage_of(root: Path, model: str, version: int, disk: Disk) -> Path:
    """Return where a version is staged: on the same file system, not seen by servers."""
    if disk.same_device(root, root.parent):
        return root.parent / f"{_stage_prefix(root)}{model}-{version}"
    # the repository is a mount point: a dot folder at its root would keep servers from starting
    return root / model / f".stage-{model}-{version}"


def _stage_prefix(root: Path) -> str:
    return f".{root.name}.stage-"


def sweep(root: Path, disk: Disk) -> None:
    """Undo publishes that were interrupted before their commit, and remove their stages."""
    beside = [(p, _stage_prefix(root)) for p in root.parent.iterdir()]
    inside = [
        (p, ".stage-") for folder in root.iterdir() if folder.is_dir() for p in folder.iterdir()
    ]
    for stage, prefix in (*beside, *inside):
        match = _STAGE.fullmatch(stage.name.removeprefix(prefix))
        if not stage.name.startswith(prefix) or match is None:
            continue
        folder, version = root / match["model"], int(match["version"])
        if folder.is_dir() and version not in versions_served(folder):
            if (stage / LABELS_BEFORE).exists() and (folder / str(version)).exists():
                disk.rename(stage / LABELS_BEFORE, folder / LABELS)
            disk.remove(folder / str(version))
        disk.remove(stage)
        if folder.is_dir() and not (folder / CONFIG).exists():
            disk.remove(folder)  # its first publish
    for folder in root.iterdir():
        if folder.is_dir() and not any(folder.iterdir()):
            disk.remove(folder)  # the first moment of a first publish; servers stumble over it


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


def repository_root(repo: Path) -> Path:
    """Return the absolute path of the repository `repo`, which need not be there yet.

    Raises:
        SpecError: it is a file or a model's folder, or cannot be made.
    """
    root = repo.resolve()
    if root.exists() and not root.is_dir():
        raise SpecError(f"repository {repo}: expected a folder, got a file")
    if not root.parent.is_dir():
        raise SpecError(f"repository {repo}: its parent folder does not exist; create it first")
    if (root / CONFIG).exists():
        raise SpecError(f"repository {repo}: this is a model's folder; name the folder around it")
    return root
