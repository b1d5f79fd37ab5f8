"""Files of a folder read without opening anything but the regular files that it lists."""

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from bandstop.edit.tensors import named_twice
from bandstop.export.errors import ReleaseError

_FILE_LIMIT = 2 << 30  # bytes; no ONNX file can be larger
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Known(Protocol):
    """What a record says of a file."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """64 lower-case hex digits."""


def read_regular(file: Path, *, limit: int, size: int | None = None) -> bytes:
    """Return the content of a regular file that has one name only; nothing else is opened.

    Args:
        file: may be anything, a pipe included.
        limit: the most bytes that are read.
        size: how many bytes it must have.

    Raises:
        ReleaseError: missing, something else, or of another size; names the file.
    """
    try:
        seen = file.lstat()
    except FileNotFoundError as error:
        raise ReleaseError(f"{file.name!r}: missing") from error
    if not stat.S_ISREG(seen.st_mode):
        kind = _KINDS.get(stat.S_IFMT(seen.st_mode), "something else")
        raise ReleaseError(f"{file.name!r}: expected a regular file, got {kind}")
    if seen.st_nlink != 1:
        raise ReleaseError(f"{file.name!r}: a hard link, so it can be changed from elsewhere")
    if size is not None and seen.st_size != size:
        raise ReleaseError(f"{file.name!r}: {seen.st_size} bytes, expected {size}")
    if seen.st_size > limit:
        raise ReleaseError(f"{file.name!r}: larger than {limit} bytes")
    return _read_same(file, seen)


def read_listed(folder: Path, listed: Mapping[str, Known]) -> tuple[dict[str, bytes], list[str]]:
    """Return the content of each listed file that is as it should be, and a line for each other.

    Args:
        folder: where they lie.
        listed: file name -> what the record says of it.
    """
    files, misfits = {}, []
    for name, known in sorted(listed.items()):
        try:
            data = read_regular(folder / name, limit=_FILE_LIMIT, size=known.size)
        except ReleaseError as error:
            misfits.append(str(error))
            continue
        digest = hashlib.sha256(data).hexdigest()
        if digest != known.sha256:
            misfits.append(
                f"{name!r}: digest {digest[:12]}..., expected {known.sha256[:12]}...; "
                "the file is corrupt"
            )
            continue
        files[name] = data
    return files, misfits


def unlisted(folder: Path, allowed: Collection[str]) -> list[str]:
    """Return a line for each entry of `folder` whose name is not among `allowed`."""
    there = sorted(entry.name for entry in folder.iterdir())
    return [f"{name!r}: unlisted" for name in there if name not in allowed]


def refuse_twice(content: bytes, name: str) -> None:
    """Refuse JSON that names a field twice: readers differ in which of both they believe.

    Raises:
        ReleaseError: it does; `name` is named.
    """
    if named_twice(content):
        raise ReleaseError(f"{name!r}: names a field twice")


def _read_same(file: Path, seen: os.stat_result) -> bytes:
    """Return the content of `file`, unless something else took its place since it was seen."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ReleaseError(f"{file.name!r}: cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as stream:
        now = os.fstat(descriptor)
        if (now.st_dev, now.st_ino, now.st_size) != (seen.st_dev, seen.st_ino, seen.st_size):
            raise ReleaseError(f"{file.name!r}: changed while it was read")
        return stream.read(seen.st_size)
