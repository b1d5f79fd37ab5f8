"""All that is needed to start a server, and to start it again."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bandstop.serve.access import Access, new_token
from bandstop.serve.address import address_of
from bandstop.serve.command import EXIT_TIMEOUT_S, Server, command_line, environment
from bandstop.serve.log import Log, LogFormat
from bandstop.serve.tls import ServerTls, probing

_GRACE_S = EXIT_TIMEOUT_S + 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What a server is started with.

    Attributes:
        repository: that it serves.
        access: to it.
        command: the program and its arguments.
        environment: all of it.
        log: where what it writes goes.
        shm_prefix: what the names of its shared memory begin with.
        socket: the file that it listens on; one that is never there for a port.
        folder: of its own, removed with it.
        timeout: seconds until all models must answer.
    """

    repository: Path
    access: Access
    command: list[str]
    environment: Mapping[str, str]
    log: Log
    shm_prefix: str
    socket: Path
    folder: Path
    timeout: float

    def sent(self) -> dict[str, object]:
        """Return what a keeper is sent."""
        return {
            "command": self.command,
            "environment": dict(self.environment),
            "log": str(self.log.file),
            "log_writer": self.log.writer(),
            "grace_s": _GRACE_S,
            "shm_prefix": self.shm_prefix,
            "socket": str(self.socket),
            "folder": str(self.folder),
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller of `start` asked for; see there."""

    repository: Path
    port: int | None
    socket_dir: Path | None
    log: Path | None
    timeout: float
    log_format: LogFormat
    metrics_port: int | None
    tls: ServerTls | None


def plan_of(asked: Asked, server: Server, folder: Path) -> Plan:
    """Return the plan of a new server with a token of its own.

    Args:
        asked: what it has to do.
        server: the program.
        folder: an empty one, for this server alone.

    Raises:
        ServeInputError: a port out of range, a folder that cannot be used, no place for the log.
        ServeError: the port or the socket is in use.
    """
    address, token = address_of(asked.port, asked.socket_dir or folder), new_token()
    prefix = f"{folder.name.replace('-', '_')}_"
    command = command_line(
        server,
        asked.repository,
        address,
        prefix,
        token=token,
        tls=asked.tls,
        metrics_port=asked.metrics_port,
    )
    return Plan(
        asked.repository,
        Access(address.url, token, probing(asked.tls) if asked.tls else None),
        command,
        environment(server, os.environ),
        Log.at(asked.log or folder / "log", asked.log_format),
        prefix,
        address.socket or folder / "s",
        folder,
        asked.timeout,
    )
