"""Pages in a real Chromium without a window: what it logs, loads, draws and lets run over.

Chromium speaks the DevTools protocol over two pipes (--remote-debugging-pipe), messages of JSON
that end with a zero byte. So the page is the very file, its Content-Security-Policy in force, and
the width is emulated: 360 pixels really are 360, which no window of Chromium's can be.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_TIMEOUT_S = 60.0
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# what is asked of a page: its widths, and every picture that has a size on the screen
_PROBE = """(() => {
  const size = (e) => e.getBoundingClientRect();
  const pictures = [...document.querySelectorAll("svg")];
  const there = (e) => size(e).width > 0 && size(e).height > 0;
  const drawn = pictures.filter((e) => e.checkVisibility() && there(e));
  const root = document.documentElement;
  return {
    inner: innerWidth,
    over: root.scrollWidth - root.clientWidth,
    clipped: drawn.filter((e) => size(e).right > root.clientWidth + 0.5).length,
    charts: drawn.length,
    marks: drawn.filter((e) => [...e.querySelectorAll("rect, polyline, circle")].some(
      (m) => size(m).width > 1 || size(m).height > 1)).length,
    unlabelled: pictures.filter((e) => !e.getAttribute("aria-label")).length,
    smallest: Math.min(99, ...drawn.flatMap((e) => [...e.querySelectorAll("text")].map(
      (t) => parseFloat(getComputedStyle(t).fontSize) * size(e).width / e.viewBox.baseVal.width))),
  };
})()"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A page as it came out at one width.

    Attributes:
        inner: the width that it really had.
        over: by how many pixels the page is wider than that.
        clipped: pictures that reach over the edge.
        charts: pictures on the screen.
        marks: those of them with marks of some size.
        unlabelled: pictures without words for those who do not see them.
        smallest: the least size of text in a picture, in pixels.
        errors: what was logged as an error, and scripts that failed.
        loaded: addresses of what was loaded besides the page itself.
    """

    inner: int
    over: int
    clipped: int
    charts: int
    marks: int
    unlabelled: int
    smallest: float
    errors: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()


@dataclass(slots=True)
class Browser:
    """A running Chromium with one page."""

    _to: int
    _from: int
    _session: str = ""
    _last: int = 0
    _rest: bytes = b""
    _events: list[Mapping[str, Any]] = field(default_factory=list)

    def look(self, page: Path, width: int, media: str = "screen") -> Seen:
        """Open the file `page` at `width` and return what there is to see on `media`."""
        self.open_(page, width)
        self.ask("Emulation.setEmulatedMedia", {"media": media})
        found = self.ask("Runtime.evaluate", {"expression": _PROBE, "returnByValue": True})
        events = [e for e in self._events if e.get("sessionId") == self._session]
        return Seen(
            **found["result"]["value"],
            errors=tuple(text for text in map(_error, events) if text),
            loaded=tuple(
                e["params"]["request"]["url"]
                for e in events
                if e["method"] == "Network.requestWillBeSent"
                and e["params"]["request"]["url"] != page.resolve().as_uri()
            ),
        )

    def open_(self, page: Path, width: int, height: int = 900) -> None:
        """Open the file `page` in a fresh tab of `width` x `height`."""
        target = self.ask("Target.createTarget", {"url": "about:blank"}, page=False)
        attach = {"targetId": target["targetId"], "flatten": True}
        self._session = self.ask("Target.attachToTarget", attach, page=False)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", metrics)
        self._events.clear()
        self.ask("Page.navigate", {"url": page.resolve().as_uri()})
        self._wait("Page.loadEventFired")
        # two frames later all scripts that ran at once have logged what they log
        frames = "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
        self.ask("Runtime.evaluate", {"expression": frames, "awaitPromise": True})

    def print_(self, page: Path) -> bytes:
        """Return `page` as it is printed, a PDF."""
        self.open_(page, 1280)
        return base64.b64decode(self.ask("Page.printToPDF")["data"])

    def picture_(self, page: Path, width: int) -> bytes:
        """Return the whole of `page` as a PNG."""
        self.open_(page, width)
        shot = self.ask("Page.captureScreenshot", {"captureBeyondViewport": True})
        return base64.b64decode(shot["data"])

    def ask(
        self, method: str, params: Mapping[str, object] | None = None, *, page: bool = True
    ) -> dict[str, Any]:
        """Return the answer to a command of the protocol, to the page or to the browser."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params or {}}
        if page:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _wait(self, event: str) -> None:
        while not any(e["method"] == event for e in self._events):
            self._next()

    def _next(self) -> Mapping[str, Any]:
        """Return the next message; events are kept as well."""
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._from], [], [], max(left, 0))
            part = os.read(self._from, 1 << 16) if ready else b""
            assert part, f"Chromium said nothing for {_TIMEOUT_S} s, or ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: Mapping[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
        return message


def chromium() -> str | None:
    """Return the path of a Chromium or Chrome; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Give a Chromium with the empty folder `profile`; skip the test where there is none."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium: that pages fit, log no error and load nothing was not checked")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # Chromium reads from 3 and writes to 4; the shell puts the pipes there
    place = 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null'
    process = subprocess.Popen(
        ["sh", "-c", place, program, *_FLAGS, f"--user-data-dir={profile}"],
        stdin=to_read,
        stdout=from_write,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    running = Browser(to_write, from_read)
    try:
        yield running
        with suppress(AssertionError, BrokenPipeError):  # it may end before it answers
            running.ask("Browser.close", page=False)
        process.wait(_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
        os.close(to_write)
        os.close(from_read)


def _error(event: Mapping[str, Any]) -> str:
    """Return what `event` says went wrong; empty where nothing did."""
    params = event["params"]
    match event["method"]:
        case "Runtime.exceptionThrown":
            return str(params["exceptionDetails"].get("text", "a script failed"))
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
            return " ".join(str(arg.get("value", arg["type"])) for arg in params["args"])
        case "Log.entryAdded" if params["entry"]["level"] == "error":
            return str(params["entry"]["text"])
    return ""
