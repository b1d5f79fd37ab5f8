"""A server and the keeper that runs it, as their parent holds them."""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bandstop.serve import keeper
from bandstop.serve.errors import MachineError, NotServed


class Kept:
    """A keeper's process; `begin` makes it start the server.

    Attributes:
        pid: of the server itself; 0 before `begin`.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Keep hold of the keeper's process; use `new_keeper` instead."""
        self._process = process
        self._plan: Mapping[str, object] = {}
        self._lock = threading.Lock()
        self.pid = 0

    def begin(self, plan: Mapping[str, object]) -> None:
        """Send the keeper its plan.

        Through a pipe: the environment may hold secrets, and a command line is there for all to
        read.

        Raises:
            MachineError: the server is no program that can be run.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._plan = plan
        self._process.stdin.write(json.dumps(plan).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline().decode(errors="replace").strip()
        if not line.isdigit():
            raise MachineError(line or "the server could not be started")
        self.pid = int(line)

    def ended(self, milliseconds: int | None) -> bool:
        """Return whether the server has ended; wait for it, for ever if None."""
        stdout = self._process.stdout
        if stdout is None or stdout.closed:
            return True
        end = select.poll()
        end.register(stdout, select.POLLIN)
        return bool(end.poll(milliseconds))

    def end(self, word: bytes) -> None:
        """End the server and wait until it is gone, its socket and shared memory too.

        Args:
            word: DRAINED, SOON or NOW of the keeper.
        """
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with suppress(OSError, ValueError):  # the keeper is gone, or another thread was first
                # closing tells nothing while a process that we forked holds the pipe too
                os.write(stdin.fileno(), word)
        with self._lock:
            if stdin is not None:
                with suppress(OSError):
                    stdin.close()
            if self._process.wait() and self.pid:  # it was killed and could not clear away
                keeper.end_group(self.pid)
                keeper.clear_memory(str(self._plan["shm_prefix"]))
                Path(str(self._plan["socket"])).unlink(missing_ok=True)
            if self._process.stdout is not None:
                self._process.stdout.close()


def new_keeper() -> Kept:
    """Return a keeper that waits for its plan."""
    process = subprocess.Popen(
        [sys.executable, "-IS", keeper.__file__],  # it needs no packages
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C on our terminal is ours to handle
    )
    return Kept(process)


def own_folder(folder: Path) -> None:
    """Make `folder`, which only this user can enter, unless it is there.

    Raises:
        NotServed: somebody else has made it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o177077 != 0o040000:
        raise NotServed(f"{folder} is not a folder of this user alone")
