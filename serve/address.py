"""Where a server listens for gRPC: a unix socket, or a port of the loopback address."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from bandstop.serve.errors import ServeError, ServeInputError

LOOPBACK = "127.0.0.1"
SOCKET_LIMIT = 100  # bytes of a unix socket's path that are safe; the kernel takes 107
_UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens for gRPC.

    Attributes:
        host: 127.0.0.1, or unix:PATH, to which the server appends the port.
        port: of TCP; for a socket only a part of its name.
    """

    host: str
    port: int

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"{self.host}:{self.port}"

    @property
    def socket(self) -> Path | None:
        """The socket's file; None for a port."""
        return Path(self.url.removeprefix(_UNIX)) if self.host.startswith(_UNIX) else None


def address_of(port: int | None, socket_dir: Path) -> Address:
    """Return a free address: `port` of the loopback address, else a socket in `socket_dir`.

    Raises:
        ServeInputError: a port out of range, no such folder, or a path too long for a socket.
        ServeError: somebody listens there already.
    """
    return _socket_address(socket_dir) if port is None else _port_address(port)


def _socket_address(folder: Path) -> Address:
    if not folder.is_dir():
        raise ServeInputError(f"socket folder {folder}: no such folder")
    address = Address(f"{_UNIX}{folder.resolve() / 's'}", 1)
    assert address.socket is not None
    if len(os.fsencode(address.socket)) > SOCKET_LIMIT:
        raise ServeInputError(
            f"socket folder {folder} is too long, a socket's path takes {SOCKET_LIMIT} bytes; "
            "give a shorter one with --socket"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        # the server would take over the socket of another one without a word
        if probe.connect_ex(str(address.socket)) == 0:
            raise ServeError(f"a server listens in {folder} already; choose another folder")
    return address


def _port_address(port: int) -> Address:
    check_port(port)
    return Address(LOOPBACK, port)


def check_port(port: int) -> None:
    """Refuse a port of the loopback address that cannot be listened on.

    Raises:
        ServeInputError: it is out of range.
        ServeError: it is in use, or not for this user.
    """
    if not 1 <= port <= 65535:
        raise ServeInputError(f"port {port}: expected 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError as error:
            raise ServeError(f"port {port} is not for this user; choose one from 1024") from error
        except OSError as error:
            raise ServeError(f"port {port} on {LOOPBACK} is in use; choose another") from error
