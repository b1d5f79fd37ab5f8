"""The few ways in which a repository is changed on disk; tests make each of them fail."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bandstop.export.errors import DiskError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Disk:
    """Durable changes to files and folders; nothing that it makes can be written by everybody."""

    def make(self, folder: Path) -> None:
        """Make `folder`, which must not exist."""
        folder.mkdir(mode=0o755)

    def write(self, file: Path, content: bytes) -> None:
        """Write `content` to `file` and wait until it is on the disk."""
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def sync(self, folder: Path) -> None:
        """Wait until the names in `folder` are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Move `old` to `new` in one step; a file at `new` is replaced."""
        old.rename(new)

    def set_modified(self, file: Path, nanoseconds: int) -> None:
        """Set the time of modification of `file`."""
        os.utime(file, ns=(nanoseconds, nanoseconds))

    def remove(self, path: Path) -> None:
        """Remove the file or folder `path`, if it is there."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def same_device(self, one: Path, other: Path) -> bool:
        """Return whether a rename between the folders `one` and `other` can work."""
        return one.stat().st_dev == other.stat().st_dev


@contextmanager
def disk_errors(root: Path, needed: int = 0) -> Iterator[None]:
    """Tell in one line what the operating system refuses while the repository `root` is changed.

    Args:
        root: the repository.
        needed: bytes that the change writes.

    Raises:
        DiskError: it refused something; what was begun is undone.
    """
    try:
        yield
    except OSError as error:
        where = f"repository {root}: {error.filename or ''}".rstrip(": ")
        said = (error.strerror or str(error)).lower()
        if error.errno in _FULL:
            free = shutil.disk_usage(root if root.is_dir() else root.parent).free
            raise DiskError(
                f"{where}: {said}: {needed} bytes needed, {free} free; nothing was changed; make "
                "room and try again"
            ) from error
        raise DiskError(f"{where}: {said}; nothing was changed") from error
