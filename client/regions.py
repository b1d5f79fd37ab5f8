"""Regions of shared memory that a client owns: which are free, in use, or left to the server."""

import contextlib
import mmap
import os
import secrets
from pathlib import Path
from threading import RLock

_FOLDER = Path("/dev/shm")
_PREFIX = "bandstop-client-"


class Region:
    """Shared memory of this process, not to be written to while a server may read it.

    Attributes:
        name: that nobody can guess; only a server that sees the same memory finds it.
        memory: its bytes.
        told: whether a server may know it.
        proved: whether a server has answered what lay in it.
    """

    def __init__(self, size: int) -> None:
        """Make one of `size` bytes for this user alone; raises OSError where there is no room."""
        self.name = f"{_PREFIX}{secrets.token_hex(16)}"
        self.told = self.proved = False
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        place = os.open(self.path, flags, 0o600)
        try:
            os.posix_fallocate(place, 0, size)  # else a full memory would kill us at a write
            self.memory = mmap.mmap(place, size)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(place)

    @property
    def path(self) -> Path:
        """Where it lies until it is unlinked."""
        return _FOLDER / self.name

    def unlink(self) -> None:
        """Take its name away; who has it mapped keeps it, and it goes with the last of them."""
        with contextlib.suppress(OSError):
            self.path.unlink()


class Regions:
    """Keeps regions, at most so many; safe for threads. It talks to no server itself."""

    def __init__(self, most: int) -> None:
        """Hold no region yet, and never more than `most`."""
        self._most, self._size = most, 0
        self._free: list[Region] = []
        self._used: set[Region] = set()
        self._left: list[str] = []
        # A collected conversation drops its region, and that may happen within these methods.
        self._lock = RLock()

    @property
    def off(self) -> bool:
        """Whether there will never be another region."""
        return self._most == 0

    def take(self, size: int) -> Region | None:
        """Return a free region of at least `size` bytes; one that is too small is dropped."""
        with self._lock:
            if not self._free:
                return None
            region = self._free.pop()
            self._used.add(region)
            if len(region.memory) >= size:
                return region
            self.drop(region)
            return None

    def new(self, size: int) -> Region | None:
        """Return a new region, as large as the largest so far; None where there is no room."""
        with self._lock:
            if len(self._free) + len(self._used) + len(self._left) >= self._most:
                return None
            self._size = max(self._size, size)
            try:
                region = Region(self._size)
            except OSError:  # no room, or no such memory: make do with those that there are
                self._most = len(self._free) + len(self._used)
                return None
            self._used.add(region)
            return region

    def give(self, region: Region) -> None:
        """Take `region` back: the server has answered and reads it no longer."""
        with self._lock:
            region.proved = True
            self._used.discard(region)
            if self._most:
                self._free.append(region)
            else:
                self.drop(region)

    def drop(self, region: Region) -> None:
        """Never use `region` again: a server may still read it, or knows it no more."""
        with self._lock:
            self._used.discard(region)
            region.memory.close()
            if region.told:
                self._left.append(region.name)

    def lose(self, region: Region) -> None:
        """Drop `region`, which the server does not know, and the free ones, which will be alike.

        A server that forgets a region before it has read it does not keep what it is told: then
        there are no more.
        """
        with self._lock:
            self.drop(region)
            self.clear()
            if not region.proved:
                self._most = 0

    def clear(self) -> None:
        """Drop the free regions."""
        with self._lock:
            while self._free:
                self.drop(self._free.pop())

    def stop(self) -> None:
        """Make no more regions, and leave all to the server, those in use too."""
        with self._lock:
            self._most = 0
            self.clear()
            self._left += [region.name for region in self._used if region.told]
            for region in self._used:
                region.told = False  # its name is not to be left once more

    def leavings(self) -> list[str]:
        """Return the names of dropped regions for the caller to see to; they count no more."""
        with self._lock:
            names, self._left = self._left, []
            return names

    def put_back(self, names: list[str]) -> None:
        """Count `names` as left again: the server still holds them."""
        with self._lock:
            self._left += names
