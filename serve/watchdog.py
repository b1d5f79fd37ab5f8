"""Looks after a running server: repairs a model that fails, and restarts a server that is gone.

Triton calls a model ready whose Python process was killed, and never starts that process again;
so every ready version is asked about one row of zeros, again and again.
"""

import contextlib
import threading
import time
from collections.abc import Callable

from bandstop.serve.access import Access
from bandstop.serve.errors import NotServed, ServeError
from bandstop.serve.link import Link, NoAnswer, linked
from bandstop.serve.probe import Health
from bandstop.serve.stubs import end_stubs, stubs_of
from bandstop.serve.symptoms import Pace, Symptoms
from bandstop.serve.watched import Event, Server


class Watchdog:
    """Looks after one server until it is stopped, or cannot be brought back."""

    def __init__(
        self,
        server: Server,
        event: Event,
        pace: Pace,
        connect: Callable[[Access], Link] = linked,
    ) -> None:
        """Prepare; `look` is one look, `run` looks for as long as the server is wanted."""
        self._server, self._event, self._pace, self._connect = server, event, pace, connect
        self._link: Link | None = None
        self._given_up = threading.Event()
        self._why = ""
        self._thread: threading.Thread | None = None
        self._restarts: list[float] = []
        self._silent = 0
        self._missing: set[str] = set()  # unloaded by us, and not loaded since
        self._symptoms = Symptoms(pace.patience)

    def begin(self) -> None:
        """Look after the server from a thread of its own."""
        # a daemon: should our process end without a word, the keeper ends the server
        self._thread = threading.Thread(target=self.run, name="watchdog", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Look, again and again, until the server is stopped or given up."""
        try:
            while not self._server.stopped and not self._why:
                self._server.ends_within(self._pace.interval)
                if not self._server.stopped:
                    self._look_safely()
        finally:
            self._drop_link()
            self._given_up.set()

    def wait(self) -> str:
        """Wait until `run` has ended, and return why the server was given up; "" if it was not."""
        self._given_up.wait()
        return self._why

    def join(self) -> None:
        """Wait for the thread to end; the server has to be stopped."""
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    def look(self) -> None:
        """Look at the server and its models once, and mend what is ill."""
        if self._server.ends_within(0):
            self._restart("the server ended")
            return
        link = self._linked()
        try:
            listed = link.index()
        except NoAnswer as error:
            # while a large model is loaded, a server may have no time for its list
            self._silent = 0 if link.live() else self._silent + 1
            if self._silent >= self._pace.patience:
                self._restart(f"the server does not answer: {error}")
            return
        self._silent = 0
        loading = {v.model for v in listed if v.state == "LOADING"}  # by whoever publishes
        ready = [v for v in listed if v.state == "READY" and v.model not in loading]
        self._load_missing(link, loading | {v.model for v in ready})
        seen = self._symptoms.seen(link.probe(ready, self._pace.deadline), link.executions)
        for remark in seen.remarks:
            self._event("warning", remark)
        for model, why in seen.ill.items():
            if not self._server.stopped:
                self._repair(link, model, why)

    def _look_safely(self) -> None:
        try:
            self.look()
        except NotServed as error:  # it refuses what it did a moment ago
            self._event("warning", f"the watchdog could not look: {error}")
        except Exception as error:  # a watchdog that ends in silence is worse than a wrong look
            if not self._server.stopped:
                self._event("error", f"the watchdog failed: {type(error).__name__}: {error}")

    def _repair(self, link: Link, model: str, why: str) -> None:
        self._event("warning", f"{why}; unloading and loading {model}")
        began = time.monotonic()
        try:
            self._reload(link, model)
        except NoAnswer as error:
            self._restart(f"{model} could not be loaded again: {error}")
            return
        except NotServed as error:
            self._missing.add(model)
            self._event("error", f"{model} could not be loaded again, trying on: {error}")
            return
        ready = [v for v in link.index() if v.model == model and v.state == "READY"]
        found = link.probe(ready, self._pace.deadline)
        bad = [f for f in found.values() if f.health >= Health.DOWN]
        if bad or not ready:
            reason = bad[0].reason if bad else "no version of it is ready"
            self._restart(f"{model} is ill after it was loaded again: {reason}")
            return
        self._server.repairs += 1
        self._event("info", f"{model} answers again after {time.monotonic() - began:.1f} s")

    def _reload(self, link: Link, model: str) -> None:
        before = stubs_of(self._server.pid, model)
        link.unload(model)
        # Triton may wait for ever for a process that was killed; it loads the model all the same
        until = time.monotonic() + self._pace.gone
        while time.monotonic() < until and any(
            v.state in ("READY", "UNLOADING") for v in link.index() if v.model == model
        ):
            time.sleep(0.05)
        link.load(model)
        end_stubs(before)
        self._symptoms.forget(model)

    def _load_missing(self, link: Link, there: set[str]) -> None:
        """Try again to load what we have unloaded and could not load."""
        for model in sorted(self._missing):
            with contextlib.suppress(NotServed):
                if model not in there:
                    link.load(model)
                self._missing.discard(model)
                self._event("info", f"{model} is loaded again")

    def _restart(self, why: str) -> None:
        pace, now = self._pace, time.monotonic()
        self._restarts = [t for t in self._restarts if now - t < pace.window]
        if len(self._restarts) >= pace.restarts:
            self._why = f"{why}; given up after {pace.restarts} restarts within {pace.window:g} s"
            self._event("error", self._why)
            return
        again = len(self._restarts)
        self._restarts.append(now)
        self._event("error", f"{why}; restarting it")
        self._start_afresh()
        if again:
            self._pause(pace.pause * 2 ** (again - 1))
        try:
            self._server.restart()
        except (ServeError, OSError) as error:
            if not self._server.stopped:
                self._event("error", f"the restart failed: {error}")
            return
        if not self._server.stopped:
            self._event("info", f"the server answers again after {time.monotonic() - now:.1f} s")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._server.stopped:
            time.sleep(0.05)

    def _linked(self) -> Link:
        if self._link is None:
            self._link = self._connect(self._server.access)
        return self._link

    def _start_afresh(self) -> None:
        """Forget what was seen of a server that is replaced."""
        self._drop_link()
        self._silent = 0
        self._missing.clear()
        self._symptoms = Symptoms(self._pace.patience)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def watched(server: Server, event: Event, pace: Pace | None = None) -> Watchdog:
    """Return a watchdog that looks after `server` from now on."""
    watchdog = Watchdog(server, event, pace or Pace())
    watchdog.begin()
    return watchdog
