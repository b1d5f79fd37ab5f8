"""The few ways in which a repository is changed on disk; tests make each of them fail."""

import os
import shutil
from pathlib import Path


class Disk:
    """Durable changes to files and folders."""

    def make(self, folder: Path) -> None:
        """Make `folder`, which must not exist."""
        folder.mkdir()

    def write(self, file: Path, content: bytes) -> None:
        """Write `content` to `file` and wait until it is on the disk."""
        with file.open("wb") as stream:
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
