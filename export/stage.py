"""How the files of a model are replaced together: staged, moved in, committed by config.pbtxt.

The stage is the journal. As long as it holds a config.pbtxt the change is not committed, and
whoever finds the stage takes back what was moved: what the files were lies beside them as
`NAME.before`, empty where there was none. The commit is the move of config.pbtxt into the model's
folder. After an error past it, `config.pbtxt.before` is renamed to `undo`, which says the same.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bandstop.export.disk import Disk
from bandstop.export.record import CONFIG

_BEFORE = ".before"
_UNDO = "undo"


def first(
    folder: Path,
    files: Mapping[str, bytes],
    content: Mapping[str, bytes],
    stage: Path,
    disk: Disk,
    version: int = 1,
) -> None:
    """Make the model `folder` with `files` and a `version` of `content`, beside the repository."""
    whole = stage / folder.name
    try:
        disk.make(stage)
        _fill(whole, files, disk)
        _fill(whole / str(version), content, disk)
        disk.sync(whole)
        disk.rename(whole, folder)
        disk.sync(folder.parent)
    except BaseException:
        with suppress(OSError):  # what cannot be undone now is undone by the next change
            if folder.exists():
                disk.rename(folder, whole)
            disk.remove(stage)
        raise
    with suppress(OSError):  # same
        disk.remove(stage)


def replace_files(
    folder: Path,
    files: Mapping[str, bytes],
    stage: Path,
    disk: Disk,
    *,
    added: Mapping[str, bytes] | None = None,
    removed: int | None = None,
) -> None:
    """Replace the model's own files, and add or remove a version, in one step.

    Args:
        folder: the model's; made where there is none and `stage` lies in it.
        files: content by name; config.pbtxt is the commit and made newer than all else, for Triton
            reloads only if the newest time in the folder grew.
        stage: where the change is prepared, named for the version that it adds.
        disk: how files are changed.
        added: the files of the version that is added.
        removed: a version that is no longer served, to be taken out.
    """
    version, prepared = int(stage.name.rpartition("-")[2]), False
    try:
        if stage.parent == folder and not folder.exists():
            disk.make(folder)
        disk.make(stage)
        _prepare(folder, files, stage, disk)
        if added is not None:
            _fill(stage / str(version), added, disk)
        _journal(folder, files[CONFIG], stage, disk)
        prepared = True
        if added is not None:
            disk.rename(stage / str(version), folder / str(version))
        for name in files:
            if name != CONFIG:
                disk.rename(stage / name, folder / name)
        disk.sync(folder)
        disk.rename(stage / CONFIG, folder / CONFIG)
        disk.sync(folder)
        disk.sync(folder.parent)
    except BaseException:
        with suppress(OSError):  # what cannot be undone now is undone by the next change
            if prepared and not (stage / CONFIG).exists():
                disk.rename(stage / f"{CONFIG}{_BEFORE}", stage / _UNDO)
            undo(folder, stage, version, disk)
        raise
    with suppress(OSError):  # same
        if removed is not None:
            disk.rename(folder / str(removed), stage / str(removed))
        disk.remove(stage)


def undo(folder: Path, stage: Path, version: int, disk: Disk) -> None:
    """Take back what was moved from `stage`, if it was not committed, and remove the stage.

    Every step may be repeated after an interruption.

    Args:
        folder: the model's.
        stage: the change's.
        version: that the change adds; 0 for none.
        disk: how files are changed.
    """
    if (stage / CONFIG).exists() or (stage / _UNDO).exists():
        for kept in sorted(stage.glob(f"*{_BEFORE}")):
            if kept.name != f"{CONFIG}{_BEFORE}":
                _put_back(kept, folder / kept.name.removesuffix(_BEFORE), disk)
        if (stage / _UNDO).exists():
            if (stage / _UNDO).stat().st_size:
                disk.set_modified(stage / _UNDO, newer_than(folder))
            _put_back(stage / _UNDO, folder / CONFIG, disk)
        if version and (folder / str(version)).is_dir():
            disk.rename(folder / str(version), stage / str(version))
        if folder.is_dir():
            disk.sync(folder)
    disk.remove(stage)
    if stage.parent == folder and folder.is_dir() and not (folder / CONFIG).exists():
        disk.remove(folder)  # its first publish


def take_out(folder: Path, stage: Path, disk: Disk) -> None:
    """Remove the model `folder`, which no server has any more, in one step."""
    disk.make(stage)
    if stage.parent != folder:
        disk.rename(folder, stage / folder.name)
        disk.sync(folder.parent)
        disk.remove(stage)
        return
    disk.remove(folder / CONFIG)  # from here on whoever finds the stage removes the rest
    for entry in sorted(folder.iterdir()):
        if entry != stage:
            disk.remove(entry)
    disk.remove(stage)
    disk.remove(folder)


def newer_than(folder: Path) -> int:
    """Return a time in nanoseconds, now or later, that is newer than everything in `folder`."""
    times = [path.lstat() for path in (folder, *folder.rglob("*"))]
    newest = max(max(t.st_mtime_ns, t.st_ctime_ns) for t in times)
    return max(time.time_ns(), newest + 1_000_000)


def _prepare(folder: Path, files: Mapping[str, bytes], stage: Path, disk: Disk) -> None:
    """Write what the files are and what they will be, but config.pbtxt."""
    for name, content in files.items():
        before = (folder / name).read_bytes() if (folder / name).exists() else b""
        disk.write(stage / f"{name}{_BEFORE}", before)
        if name != CONFIG:
            disk.write(stage / name, content)


def _journal(folder: Path, config: bytes, stage: Path, disk: Disk) -> None:
    """Write the new config.pbtxt into the stage: from here on the change can be taken back."""
    disk.sync(stage)
    disk.write(stage / CONFIG, config)
    disk.set_modified(stage / CONFIG, newer_than(folder))
    disk.sync(stage)


def _put_back(kept: Path, file: Path, disk: Disk) -> None:
    if kept.stat().st_size:
        disk.rename(kept, file)
    else:
        disk.remove(file)
        disk.remove(kept)


def _fill(folder: Path, content: Mapping[str, bytes], disk: Disk) -> None:
    disk.make(folder)
    for name, data in content.items():
        disk.write(folder / name, data)
    disk.sync(folder)
