"""A real Triton on a model repository, for as long as it is needed."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bandstop.serve import keeper
from bandstop.serve.address import address_of
from bandstop.serve.command import EXIT_TIMEOUT_S, command_line, environment, find_server
from bandstop.serve.errors import MachineError, NotServed, ServeInputError
from bandstop.serve.readiness import reason_in_log, wait_until_served
from bandstop.serve.repository import check_repository

__all__ = ["Triton", "find_server", "start"]


class Triton:
    """A running server; leaving its `with` block ends it.

    Attributes:
        url: of its gRPC port, for a client.
        pid: of the server itself.
        version: what the server calls itself.
        models: that it serves.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, models: list[str]) -> None:
        """Keep hold of the keeper's process; use `start` instead."""
        self._process = process
        self.url = url
        self.pid = 0
        self.models = models
        self.version = ""

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the server still runs."""
        return not self._ended(0)

    def wait(self) -> None:
        """Wait until the server ends."""
        self._ended(None)

    def stop(self) -> None:
        """End the server and wait until it is gone, its sockets and shared memory too."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # the keeper is gone already
                # closing tells nothing while a process that we forked holds the pipe too
                os.write(self._process.stdin.fileno(), b"\n")
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _ended(self, milliseconds: int | None) -> bool:
        """Return whether the keeper has closed its stdout, the sign of the server's end."""
        stdout = self._process.stdout
        if stdout is None or stdout.closed:
            return True
        end = select.poll()
        end.register(stdout, select.POLLIN)
        return bool(end.poll(milliseconds))


def start(
    repository: Path,
    *,
    port: int | None = None,
    socket_dir: Path | None = None,
    log: Path | None = None,
    timeout: float = 60.0,
) -> Triton:
    """Start a server on `repository` and return it once every model has answered an inference.

    Args:
        repository: a Triton model repository.
        port: of gRPC on the loopback address; None listens on a unix socket.
        socket_dir: the folder of the unix socket; None makes one that only this user can enter.
        log: what the server writes is appended here; None keeps it only while it runs.
        timeout: seconds until all models must answer.

    Raises:
        ServeInputError: no repository, a port out of range, or no place for the log.
        ServeError: the port or the socket is in use.
        UnsafeRepository: see `check_repository`.
        MachineError: no server can be run here.
        NotServed: the server or a model did not come up; nothing is left running.
    """
    repository = repository.resolve()
    models = check_repository(repository)
    server = find_server()
    with ExitStack() as undo:
        name = uuid.uuid4().hex[:12]
        own = Path(tempfile.gettempdir()) / f"bandstop-{name}"
        undo.callback(shutil.rmtree, own, ignore_errors=True)
        own.mkdir(mode=0o700)
        address = address_of(port, socket_dir or own)
        log = _log(log or own / "log")
        written = log.stat().st_size
        prefix = f"bandstop_{name}_"
        plan = {
            "command": command_line(server, repository, address, prefix),
            "environment": environment(server, os.environ),
            "log": str(log),
            "grace_s": EXIT_TIMEOUT_S + 5,
            "shm_prefix": prefix,
            "socket": str(address.socket or own / "s"),
            "folder": str(own),
        }
        triton = Triton(_keeper(), address.url, models)
        undo.callback(triton.stop)
        triton.pid = _begin(triton._process, plan)
        try:
            triton.version = wait_until_served(
                address.url, models, timeout=timeout, alive=lambda: triton.alive
            )
        except NotServed as error:
            reason = reason_in_log(log.read_bytes()[written:].decode(errors="replace"))
            raise NotServed(f"{error}: {reason}" if reason else str(error)) from error
        undo.pop_all()
    return triton


def _keeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-IS", keeper.__file__],  # it needs no packages
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C on our terminal is ours to handle
    )


def _begin(process: "subprocess.Popen[bytes]", plan: dict[str, object]) -> int:
    """Send the keeper its plan and return the server's process id.

    Through a pipe: the environment may hold secrets, and a command line is there for all to read.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(plan).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline().decode(errors="replace").strip()
    if not line.isdigit():
        raise MachineError(line or "the server could not be started")
    return int(line)


def _log(file: Path) -> Path:
    file = file.absolute()
    try:
        file.open("ab").close()
    except OSError as error:
        raise ServeInputError(f"log {file} cannot be written: {error.strerror}") from error
    return file
