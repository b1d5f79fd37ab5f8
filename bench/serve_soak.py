"""Two models under load for a while: failures, memory of the server's processes, leftovers."""

import os
import shlex
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bandstop.bench.serve_load import Load
from bandstop.bench.serve_releases import gated_releases
from bandstop.cli.output import say
from bandstop.client import Client
from bandstop.export.repository import publish
from bandstop.serve.command import find_server
from bandstop.serve.triton import Triton, start

NAMES = ("digits", "letters")
START_BAR_S, GROWTH_BAR, GROWTH_BAR_MB = 3.0, 0.03, 4.0
_SAMPLE_S = 0.5
_LEAK = """

_kept = []
_execute = TritonPythonModel.execute


def _leaking(self, requests):
    _kept.append(bytearray(20_000))
    return _execute(self, requests)


TritonPythonModel.execute = _leaking
"""


def measured(control: bool, seconds: float = 60.0) -> dict[str, object]:
    """Return failures, the growth of memory after the first quarter, and what was left behind."""
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        folder = Path(place)
        say("bench serve soak: exports two releases")
        releases = gated_releases(folder, "ab")
        repo = folder / "models"
        for name, expected in zip(NAMES, releases, strict=True):
            publish(expected.release, repo, name)
        with _leaking_backend(folder) if control else _as_it_is():
            began = time.perf_counter()
            with start(repo) as server:
                for name in NAMES:
                    Client(server.url, name).metadata()
                first = round(time.perf_counter() - began, 2)
                loads = [
                    Load(server.url, [expected], ours=2, model=name)
                    for name, expected in zip(NAMES, releases, strict=True)
                ]
                say(f"bench serve soak: {seconds:.0f} s of load")
                with loads[0], loads[1]:
                    memory = _sampled(server, seconds)
        left = _traces(server.url)
    seen = [load.results({1: e}) for load, e in zip(loads, releases, strict=True)]
    return _judged(seen, memory, first, left)


def _judged(
    seen: list[dict[str, object]], memory: list[float], first: float, left: list[str]
) -> dict[str, object]:
    def total(key: str) -> int:
        return sum(int(str(one[key])) for one in seen)

    tenth = max(1, len(memory) // 10)
    quarter = len(memory) // 4
    early = statistics.median(memory[quarter : quarter + tenth])
    late = statistics.median(memory[-tenth:])
    grown = late - early
    result: dict[str, object] = {
        "requests": total("requests"),
        "failed": total("failed"),
        "wrong": total("wrong"),
        "start_s": first,
        "memory_mb": round(late, 1),
        "growth_mb": round(grown, 2),
        "growth": round(grown / early, 4),
        "left": left,
    }
    missed = [key for key in ("failed", "wrong", "left") if result[key]]
    missed += ["growth"] * (grown > max(GROWTH_BAR * early, GROWTH_BAR_MB))
    missed += ["start_s"] * (first > START_BAR_S)
    return result | {"missed": missed}


def _sampled(server: Triton, seconds: float) -> list[float]:
    """Return the memory of the server and all its processes in MB, taken twice a second."""
    found: list[float] = []
    over = threading.Event()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        over.wait(_SAMPLE_S)
        total = 0
        root = psutil.Process(server.pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        found.append(total / 1e6)
    return found


def _traces(url: str) -> list[str]:
    """Return what the server of the socket `url` has left; other servers may run beside it."""
    own = Path(url.removeprefix("unix:")).parent.name.removeprefix("bandstop-")
    places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return sorted(str(path) for place in places for path in place.glob(f"*{own}*"))


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _leaking_backend(folder: Path) -> Iterator[None]:
    """Serve with a copy of our backend that keeps 20 kB of each execution."""
    server = find_server()
    assert server.backends is not None, "the control needs the bundled server"
    leaky = folder / "backends"
    for file in server.backends.rglob("*"):
        target = leaky / file.relative_to(server.backends)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            target.write_bytes(file.read_bytes())
            target.chmod(file.stat().st_mode)
    with (leaky / "onnxruntime" / "model.py").open("a") as model:
        model.write(_LEAK)
    wrapper = folder / "tritonserver"
    settings = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in server.environment.items())
    command = f"exec {shlex.quote(str(server.binary))} --backend-directory={leaky} "
    wrapper.write_text(f'#!/bin/sh\n{settings}{command}"$@"\n')
    wrapper.chmod(0o755)
    before = os.environ.get("TRITONSERVER")
    os.environ["TRITONSERVER"] = str(wrapper)
    try:
        yield
    finally:
        os.environ.pop("TRITONSERVER")
        if before is not None:
            os.environ["TRITONSERVER"] = before
