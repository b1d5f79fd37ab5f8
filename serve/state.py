"""Which server serves which repository, for `--status` and `--stop` from another terminal."""

import hashlib
import json
import os
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    file = _notes() / f"{_name(repository)}-{os.getpid()}.json"
    note = Running(triton.url, os.getpid(), _started(os.getpid()))
    file.write_text(json.dumps(asdict(note)))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def running(repository: Path) -> Running:
    """Return what serves `repository`; of several the one that was started last.

    Raises:
        NotServed: nothing does; a note left by a process that is gone is removed.
    """
    found = []
    for file in _notes().glob(f"{_name(repository)}-*.json"):
        try:
            note = Running(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # half-written, or just removed
        if _started(note.pid) == note.started:
            found.append(note)
        else:
            file.unlink(missing_ok=True)
    if not found:
        raise NotServed(f"nothing serves {repository}")
    return max(found, key=lambda note: note.started)


def stop(repository: Path) -> Running:
    """End what serves `repository` and return what it was.

    Raises:
        NotServed: nothing serves it, or it does not end.
    """
    server = running(repository)
    with suppress(ProcessLookupError):  # it ended a moment ago
        os.kill(server.pid, signal.SIGTERM)
    until = time.monotonic() + _STOP_S
    while _started(server.pid) == server.started:
        if time.monotonic() > until:
            raise NotServed(f"process {server.pid} did not stop within {_STOP_S:g} s")
        time.sleep(0.05)
    return server


def _notes() -> Path:
    """Return the folder of the notes, which only this user can enter."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/nowhere")
    own = Path(tempfile.gettempdir()) / f"bandstop-{os.getuid()}"
    folder = runtime / "bandstop" if runtime.is_dir() else own
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise NotServed(f"{folder} is not a folder of this user; remove it")
    folder.chmod(0o700)
    return folder


def _name(repository: Path) -> str:
    return hashlib.sha256(os.fsencode(repository.resolve())).hexdigest()[:16]


def _started(pid: int) -> int:
    """Return when process `pid` began, in clock ticks since boot; -1 if it is gone."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return -1
    fields = line.rpartition(")")[2].split()  # the name before it may hold anything
    return -1 if fields[0] == "Z" else int(fields[19])
