"""Which files `bandstop predict` is to look at: named, in folders, listed on stdin."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import RawIOBase

# of the formats that the client reads
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
STDIN = "-"
_CHUNK = 1 << 16
LONGEST_PATH = 1 << 16  # bytes of an entry on stdin; one that is longer is no path


@dataclass(frozen=True, slots=True)
class Bad:
    """A path that leads to no image, and why."""

    path: str
    reason: str


def files(given: Sequence[str], separator: bytes = b"\n") -> Iterator[str | Bad]:
    """Yield the paths that `given` means, in order, as they are found.

    Args:
        given: files; folders, of which all files with an image's suffix are taken, recursively and
            sorted by name; `-` for a list on stdin.
        separator: between the paths on stdin.
    """
    for path in given:
        if path == STDIN:
            # unbuffered: it gives what there is and does not wait for more
            raw: RawIOBase = sys.stdin.buffer.raw  # type: ignore[union-attr]
            for listed in entries(raw, separator):
                yield from _below(listed) if isinstance(listed, str) else (listed,)
        else:
            yield from _below(path)


def entries(stream: RawIOBase, separator: bytes) -> Iterator[str | Bad]:
    """Yield the paths in `stream`; one that is too long is bad, and the list ends there."""
    rest = b""
    # it returns what there is, so that a list that grows slowly is answered as it grows
    while chunk := stream.read(_CHUNK):
        *whole, rest = (rest + chunk).split(separator)
        yield from (os.fsdecode(one) for one in whole if one)
        if len(rest) > LONGEST_PATH:
            yield Bad("-", f"a path on stdin is longer than {LONGEST_PATH} bytes")
            return
    if rest:
        yield os.fsdecode(rest)


def _below(path: str) -> Iterator[str | Bad]:
    if not _is_folder(path):
        yield path  # what is wrong with a file, the client says
        return
    found = False
    for one in _walk(path):
        found = True
        yield one
    if not found:
        yield Bad(path, f"{path!r}: no file in this folder has an image's suffix")


def _is_folder(path: str) -> bool:
    try:
        return os.path.isdir(path)  # noqa: PTH112 - a path may hold a NUL, which Path refuses
    except ValueError:
        return False


def _walk(folder: str) -> Iterator[str | Bad]:
    """Yield the image files below `folder`; links to folders are not followed."""
    left = [(folder, True)]  # the next one last
    while left:
        path, is_folder = left.pop()
        if not is_folder:
            yield path
            continue
        try:
            with os.scandir(path) as scan:
                inside = sorted(scan, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield Bad(path, f"{path!r}: cannot be read: {error.strerror}")
            continue
        for entry in inside:
            below = entry.is_dir(follow_symlinks=False)
            if below or entry.name.lower().endswith(SUFFIXES):
                left.append((entry.path, below))
