"""A TCP proxy on loopback that breaks connections in known ways."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Proxy:
    """Passes bytes on; what it does to the server's bytes may be changed while it runs.

    Attributes:
        reset_after: bytes from the server after which a connection is reset; None for never.
        pause: seconds before each piece is passed on.
        garbage: sent to the client in place of the server's bytes, and then hung up.
        silent: swallow what the server says.
    """

    upstream: tuple[str, int]
    address: str = ""
    reset_after: int | None = None
    pause: float = 0.0
    garbage: bytes = b""
    silent: bool = False
    resets: int = 0
    connections: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(self.upstream, timeout=5)
                except OSError:
                    client.close()
                    continue
                self.connections += [client, server]
                threading.Thread(target=self.forth, args=(client, server), daemon=True).start()
                threading.Thread(target=self.back, args=(server, client), daemon=True).start()

    def forth(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        self.drop(server)

    def back(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                time.sleep(self.pause)
                if self.silent:
                    continue
                if self.garbage:
                    client.sendall(self.garbage)
                    break
                if self.reset_after is not None and passed + len(data) > self.reset_after:
                    client.sendall(data[: self.reset_after - passed])
                    self.resets += 1
                    # lingering for no time at all sends a reset in place of a farewell
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
                passed += len(data)
                client.sendall(data)
        self.drop(client)

    @staticmethod
    def drop(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            hard = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER)
            # Who waits for its bytes keeps it open; this wakes him, and only a soft end says so.
            connection.shutdown(socket.SHUT_RD if hard else socket.SHUT_RDWR)
        connection.close()


@contextlib.contextmanager
def proxy(address: str) -> Iterator[Proxy]:
    """Stand before the server at `address` (host:port)."""
    host, port = address.rsplit(":", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        between = Proxy((host, int(port)), f"127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(target=between.serve, args=(listener,), daemon=True).start()
        try:
            yield between
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in between.connections:
                Proxy.drop(connection)
