"""A real Triton on a model repository, for as long as it is needed."""

import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from bandstop.serve.address import check_port
from bandstop.serve.command import find_server
from bandstop.serve.errors import NotServed, ServeInputError
from bandstop.serve.keeper import DRAINED, NOW, SOON
from bandstop.serve.kept import Kept, new_keeper, own_folder
from bandstop.serve.log import LogFormat
from bandstop.serve.plan import Asked, Plan, plan_of
from bandstop.serve.readiness import wait_until_served
from bandstop.serve.repository import check_repository
from bandstop.serve.tls import ServerTls, absolute, check_tls
from bandstop.serve.watchdog import Watchdog, watched

__all__ = ["Triton", "find_server", "start"]


class Triton:
    """A running server; leaving its `with` block ends it.

    Attributes:
        access: what a caller has to know; its token lets one load and unload.
        version: what the server calls itself.
        models: that it serves since it was last started.
        restarts: how often the watchdog has put a new server in its place.
        repairs: how often the watchdog has unloaded and loaded a model.
    """

    def __init__(self, plan: Plan, kept: Kept) -> None:
        """Keep hold of the keeper; use `start` instead."""
        self._plan, self._kept = plan, kept
        self._lock = threading.Lock()
        self._stopped = False
        self._watchdog: Watchdog | None = None
        self.access = plan.access
        self.models: list[str] = []
        self.version = ""
        self.restarts = self.repairs = 0

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
    def url(self) -> str:
        """What a client connects to."""
        return self.access.url

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What calls that load, unload, trace or share memory are sent with."""
        return tuple(self.access.headers.items())

    @property
    def pid(self) -> int:
        """The server's own process id; another one after a restart."""
        return self._kept.pid

    @property
    def alive(self) -> bool:
        """Whether the server still runs."""
        return not self._kept.ended(0)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def ends_within(self, seconds: float) -> bool:
        """Wait so long for the server to end, and return whether it has."""
        return self._kept.ended(int(seconds * 1000))

    def wait(self) -> str:
        """Wait until the server ends for good; return why the watchdog gave up, where there is one.

        A server without one ends when it ends; with one, when it cannot be brought back.
        """
        if self._watchdog:
            return self._watchdog.wait()
        self._kept.ended(None)
        return ""

    def watch(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Have the server, and each model in it, looked after from now on.

        Args:
            tell: is given a line about each thing that is done, which the log gets too.
        """

        def event(level: str, message: str) -> None:
            self._plan.log.event(level, message)
            tell(message)

        self._watchdog = watched(self, event)

    def restart(self) -> None:
        """Put a new server in the place of this one, with the same address and arguments.

        Raises:
            ServeError: it does not come up; see `start`.
        """
        self._kept.end(NOW)
        with self._lock:
            if self._stopped:
                return
            own_folder(self._plan.folder)
            self._kept = new_keeper()
        self._bring_up()
        self.restarts += 1

    def stop(self) -> None:
        """End the server and wait until it is gone, its sockets and shared memory too."""
        with self._lock:
            self._stopped = True
        # Triton waits to the very end for a process that was killed and replaced
        self._kept.end(SOON if self.repairs else DRAINED)
        if self._watchdog:
            self._watchdog.join()
        shutil.rmtree(self._plan.folder, ignore_errors=True)  # where the keeper could not

    def _bring_up(self) -> None:
        """Start the server under our keeper, and return once every model has answered."""
        plan, kept = self._plan, self._kept
        self.models = check_repository(plan.repository)
        written = plan.log.size()
        kept.begin(plan.sent())
        try:
            self.version = wait_until_served(
                plan.access, self.models, timeout=plan.timeout, alive=lambda: not kept.ended(0)
            )
        except NotServed as error:
            reason = plan.log.reason_since(written)
            raise NotServed(f"{error}: {reason}" if reason else str(error)) from error


def start(
    repository: Path,
    *,
    port: int | None = None,
    socket_dir: Path | None = None,
    log: Path | None = None,
    timeout: float = 60.0,
    log_format: LogFormat = "text",
    metrics_port: int | None = None,
    tls: ServerTls | None = None,
    watch: bool = False,
) -> Triton:
    """Start a server on `repository` and return it once every model has answered an inference.

    Args:
        repository: a Triton model repository.
        port: of gRPC on the loopback address; None listens on a unix socket.
        socket_dir: the folder of the unix socket; None makes one that only this user can enter.
        log: what the server writes is appended here; None keeps it only while it runs.
        timeout: seconds until all models must answer.
        log_format: "text" as Triton writes it, "json" one object a line.
        metrics_port: of the metrics on the loopback address; None has none.
        tls: of the gRPC port; None speaks plainly.
        watch: repair and restart what fails; see `Triton.watch`.

    Raises:
        ServeInputError: no repository, a port out of range, no place for the log, files of `tls`.
        ServeError: a port or the socket is in use.
        UnsafeRepository: see `check_repository`.
        MachineError: no server can be run here.
        NotServed: the server or a model did not come up; nothing is left running.
    """
    repository = repository.resolve()
    check_repository(repository)
    server = find_server()
    if tls:
        check_tls(tls := absolute(tls))
    if metrics_port is not None:
        if metrics_port == port:
            raise ServeInputError(f"port {port} cannot be gRPC's and the metrics' at once")
        check_port(metrics_port)
    with ExitStack() as undo:
        own = Path(tempfile.gettempdir()) / f"bandstop-{uuid.uuid4().hex[:12]}"
        undo.callback(shutil.rmtree, own, ignore_errors=True)
        own.mkdir(mode=0o700)
        asked = Asked(repository, port, socket_dir, log, timeout, log_format, metrics_port, tls)
        plan = plan_of(asked, server, own)
        triton = Triton(plan, new_keeper())
        undo.callback(triton.stop)
        triton._bring_up()
        if watch:
            triton.watch()
        undo.pop_all()
    return triton
