"""A real Triton on a model repository, for as long as it is needed."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from bandstop.serve import keeper
from bandstop.serve.command import (
    EXIT_TIMEOUT_S,
    Address,
    command_line,
    environment,
    find_server,
    socket_address,
)
from bandstop.serve.errors import NotServed, ServeError, ServeInputError
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

    def __init__(
        self, process: "subprocess.Popen[str]", url: str, pid: int, models: list[str]
    ) -> None:
        """Keep hold of the keeper's process; use `start` instead."""
        self._process = process
        self.url = url
        self.pid = pid
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
        return Path(f"/proc/{self.pid}").exists()

    def wait(self) -> None:
        """Wait until the server ends."""
        if self._process.stdout is not None:
            self._process.stdout.readline()

    def stop(self) -> None:
        """End the server and wait until it is gone, its sockets and shared memory too."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


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
        ServeInputError: no repository, or a port out of range or in use.
        UnsafeRepository: see `check_repository`.
        MachineError: no server can be run here.
        NotServed: the server or a model did not come up; nothing is left running.
    """
    repository = repository.resolve()
    models = check_repository(repository)
    server = find_server()
    own = Path(tempfile.mkdtemp(prefix="bandstop-"))  # only this user can enter
    try:
        address = _address(port, socket_dir or own)
    except ServeError:
        own.rmdir()
        raise
    log, prefix = log or own / "log", f"bandstop_{uuid.uuid4().hex[:12]}_"
    plan = {
        "command": command_line(server, repository, address, prefix),
        "environment": environment(server, os.environ),
        "log": str(log),
        "grace_s": EXIT_TIMEOUT_S + 5,
        "shm_prefix": prefix,
        "folder": str(own),
    }
    triton = _launch(plan, address.url, models)
    try:
        triton.version = wait_until_served(
            address.url, models, timeout=timeout, alive=lambda: triton.alive
        )
    except BaseException as error:
        reason = reason_in_log(log.read_text(errors="replace"))
        triton.stop()
        if isinstance(error, NotServed) and reason:
            raise NotServed(f"{error}: {reason}") from error
        raise
    return triton


def _launch(plan: dict[str, object], url: str, models: list[str]) -> Triton:
    process = subprocess.Popen(
        [sys.executable, "-I", keeper.__file__, json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C on our terminal is ours to handle
    )
    line = process.stdout.readline() if process.stdout else ""
    if not line.strip():
        process.wait()
        raise NotServed("the server could not be started")
    return Triton(process, url, int(line), models)


def _address(port: int | None, socket_dir: Path) -> Address:
    if port is None:
        if not socket_dir.is_dir():
            raise ServeInputError(f"socket folder {socket_dir}: no such folder")
        return socket_address(socket_dir.resolve())
    if not 1 <= port <= 65535:
        raise ServeInputError(f"port {port}: expected 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServeError(f"port {port} on 127.0.0.1 is in use; choose another") from error
    return Address("127.0.0.1", port)
