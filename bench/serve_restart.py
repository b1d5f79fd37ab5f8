"""A server and its backend processes killed while clients with default settings ask."""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from bandstop.bench.serve_load import Load, ask_bare
from bandstop.bench.serve_releases import Expected, gated_releases
from bandstop.cli.output import say
from bandstop.export.repository import publish
from bandstop.serve.triton import Triton, start

NAME, CLIENTS, BACKEND_BAR_S = "digits", 4, 10.0
_STUB = "triton_python_backend_stub"
_STEADY_S, _PATIENCE_S = 2.0, 30.0


def measured(control: bool) -> dict[str, object]:
    """Return what clients saw while the server was killed, and how soon a backend was back."""
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        folder = Path(place)
        say("bench serve restart: exports a release")
        releases = gated_releases(folder, "a")
        repo = folder / "models"
        versions = {publish(releases[0].release, repo): releases[0]}
        with start(repo, watch=True) as server:
            ours, bare = (0, CLIENTS) if control else (CLIENTS, 0)
            load = Load(server.url, releases, ours=ours, bare=bare, model=NAME)
            with load:
                back = {
                    f"{number.name.lower()}_back_s": _killed(server, releases, number)
                    for number in (signal.SIGKILL, signal.SIGTERM)
                }
        seen = load.results(versions)
        with start(repo, watch=not control) as server:
            backend = _backend_killed(server, releases)
    missed = [key for key in ("failed", "wrong") if seen[key]]
    missed += ["backend_back_s"] * (backend > BACKEND_BAR_S)
    keys = ("requests", "failed", "wrong", "errors", "median_ms", "max_ms")
    told: dict[str, object] = {key: seen[key] for key in keys}
    return {**told, **back, "backend_back_s": backend, "missed": missed}


def _killed(server: Triton, releases: list[Expected], number: signal.Signals) -> float:
    """Kill the server under load; return the seconds until it answers again."""
    time.sleep(_STEADY_S)
    say(f"bench serve restart: {number.name} to the server")
    os.kill(server.pid, number)
    started = time.monotonic()
    time.sleep(0.2)  # it may still answer
    seconds = _until_answer(server.url, releases, started)
    time.sleep(_STEADY_S)
    return seconds


def _backend_killed(server: Triton, releases: list[Expected]) -> float:
    """Kill all processes of the backend; return the seconds until the model answers again."""
    time.sleep(_STEADY_S)
    victims = [
        child
        for child in psutil.Process(server.pid).children(recursive=True)
        if Path(child.exe()).name == _STUB
    ]
    say(f"bench serve restart: SIGKILL to {len(victims)} backend processes")
    for victim in victims:  # one of two left would answer at once
        victim.kill()
    started = time.monotonic()
    time.sleep(0.2)
    return _until_answer(server.url, releases, started)


def _until_answer(url: str, releases: list[Expected], started: float) -> float:
    """Return the seconds from `started` to three answers in a row."""
    ask: Callable[[int, int], object] = ask_bare(url, NAME, releases)
    good = 0
    while good < 3 and time.monotonic() - started < _PATIENCE_S:
        try:
            ask(0, 0)
        except Exception:  # whatever it is, the model does not answer yet
            good = 0
            time.sleep(0.05)
        else:
            good += 1
    return round(time.monotonic() - started, 2)
