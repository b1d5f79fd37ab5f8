"""Which server serves which repository, for `--status` and `--stop` from another terminal."""

import hashlib
import json
import os
import re
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bandstop.client.channel import Tls
from bandstop.serve.access import Access
from bandstop.serve.address import LOOPBACK
from bandstop.serve.errors import NotServed

if TYPE_CHECKING:  # a note needs nothing of what starts a server
    from bandstop.serve.triton import Triton

_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A process that serves a repository.

    Attributes:
        url: of the server's gRPC port.
        pid: of the `bandstop serve` process.
        started: when that process began, in clock ticks since boot; tells it from a later one.
        token: what lets a caller load and unload; "" where the server asks for none.
        repository: that is served.
        since: when the server was first ready, ISO 8601 in UTC.
        restarts: how often the server was put in place anew since.
        repairs: how often a model was unloaded and loaded since.
        tls: the files and the name to reach it with, where it speaks TLS.
    """

    url: str
    pid: int
    started: int
    token: str = ""
    repository: str = ""
    since: str = ""
    restarts: int = 0
    repairs: int = 0
    tls: Mapping[str, str | None] | None = None

    @property
    def access(self) -> Access:
        """What a caller has to know of it."""
        if self.tls is None:
            return Access(self.url, self.token)
        files = {k: Path(v) if v else None for k, v in self.tls.items() if k != "server_name"}
        return Access(self.url, self.token, Tls(**files, server_name=self.tls["server_name"]))

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What calls that load, unload, trace or share memory are sent with."""
        return tuple(self.access.headers.items())


@contextmanager
def remembered(repository: Path, triton: "Triton") -> Iterator[Callable[[], None]]:
    """Keep a note that this process serves `repository`, for as long as the block runs.

    It yields what brings the note up to date. It holds the server's token, for this user alone.
    """
    file = _notes() / f"{_name(repository)}-{os.getpid()}.json"
    since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    over, lock = False, threading.Lock()

    def note() -> None:
        tls = triton.access.tls
        running = Running(
            triton.url,
            os.getpid(),
            _started(os.getpid()),
            triton.access.token,
            str(repository.resolve()),
            since,
            triton.restarts,
            triton.repairs,
            {k: None if v is None else str(v) for k, v in asdict(tls).items()} if tls else None,
        )
        with lock:
            if not over:  # another thread may be late
                _replace(file, json.dumps(asdict(running)))

    note()
    try:
        yield note
    finally:
        with lock:
            over = True
            file.unlink(missing_ok=True)


def running(repository: Path) -> Running:
    """Return what serves `repository`; of several the one that was started last.

    Raises:
        NotServed: nothing does; a note left by a process that is gone is removed.
    """
    found = _found(f"{_name(repository)}-*.json")
    if not found:
        raise NotServed(f"nothing serves {repository}")
    return max(found, key=lambda note: note.started)


def running_at(url: str) -> Running | None:
    """Return the server of this user that listens at `url`, with its token; None if there is none.

    A server elsewhere, or one that `bandstop serve` did not start, has no note.
    """
    bare = re.sub(r"^(grpcs?://|dns:///|ipv4:)", "", url)
    bare = re.sub(r"^localhost:", f"{LOOPBACK}:", re.sub(r"^unix:/+", "unix:/", bare))
    found = [note for note in _found("*.json") if note.url == bare]
    return max(found, key=lambda note: note.started, default=None)


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


def _found(pattern: str) -> list[Running]:
    """Return the notes of processes that run, and remove those of processes that are gone."""
    found = []
    for file in _notes().glob(pattern):
        try:
            note = Running(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # just removed, or of another release
        if _started(note.pid) == note.started:
            found.append(note)
        else:
            file.unlink(missing_ok=True)
    return found


def _replace(file: Path, text: str) -> None:
    """Write `file`, for this user alone, so that a reader sees the old or the new text."""
    staged = file.with_suffix(".new")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    staged.replace(file)


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
