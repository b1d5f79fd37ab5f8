"""Which server serves which repository, for `--status` and `--stop` from another terminal."""

import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bandstop.serve.errors import NotServed
from bandstop.serve.triton import Triton

_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A process that serves a repository.

    Attributes:
        url: of the server's gRPC port.
        pid: of the `bandstop serve` process.
        started: when that process began, in clock ticks since boot; tells it from a later one.
    """

    url: str
    pid: int
    started: int


@contextmanager
def remembered(repository: Path, triton: Triton) -> Iterator[None]:
    """Keep a note that this process serves `repository`, for as long as the block runs."""
    file = _note(repository)
    note = Running(triton.url, os.getpid(), _started(os.getpid()))
    file.write_text(json.dumps(asdict(note)))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def running(repository: Path) -> Running:
    """Return what serves `repository`.

    Raises:
        NotServed: nothing does; a note left by a process that is gone is removed.
    """
    file = _note(repository)
    try:
        server = Running(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        raise NotServed(f"nothing serves {repository}") from None
    if _started(server.pid) != server.started:
        file.unlink(missing_ok=True)
        raise NotServed(f"nothing serves {repository}; the last server is gone")
    return server


def stop(repository: Path) -> Running:
    """End what serves `repository` and return what it was.

    Raises:
        NotServed: nothing serves it, or it does not end.
    """
    server = running(repository)
    os.kill(server.pid, signal.SIGTERM)
    until = time.monotonic() + _STOP_S
    while _started(server.pid) == server.started:
        if time.monotonic() > until:
            raise NotServed(f"process {server.pid} did not stop within {_STOP_S:g} s")
        time.sleep(0.05)
    return server


def _note(repository: Path) -> Path:
    """Return the note's place, in a folder that only this user can enter."""
    default = Path(tempfile.gettempdir()) / f"bandstop-{os.getuid()}"
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or default) / "bandstop-servers"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise NotServed(f"{folder} belongs to another user; remove it")
    name = hashlib.sha256(os.fsencode(repository.resolve())).hexdigest()[:16]
    return folder / f"{name}.json"


def _started(pid: int) -> int:
    """Return when process `pid` began, in clock ticks since boot; -1 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return -1 if fields[0] == "Z" else int(fields[19])
