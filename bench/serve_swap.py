"""Versions swapped and rolled back while four clients ask."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tritonclient.grpc as triton

from bandstop.bench.serve_load import Load
from bandstop.bench.serve_releases import Expected, gated_releases
from bandstop.cli.output import say
from bandstop.export.promote import rollback
from bandstop.export.readback import server_at
from bandstop.export.repository import publish
from bandstop.export.serving import Server
from bandstop.serve.triton import Triton, start

SWAPS, ROLLBACKS, MODEL = 10, 5, "digits"
_BETWEEN_S = 0.5  # so that each version answers for a while


def measured(control: bool) -> dict[str, object]:
    """Return what four clients saw, two of them Triton's own that never try again."""
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        folder = Path(place)
        say("bench serve swap: exports two releases")
        releases = gated_releases(folder, "ab")
        repo = folder / "models"
        versions = {publish(releases[0].release, repo): releases[0]}
        with (
            start(repo) as server,
            server_at(server.url, headers=server.headers) as readback,
            Load(server.url, releases, ours=2, bare=2, model=MODEL) as load,
        ):
            started = time.perf_counter()
            if control:
                _control(server, repo, versions, releases)
            else:
                _swaps(repo, versions, releases, readback)
            seconds = time.perf_counter() - started
    return _judged(load.results(versions), round(seconds, 1))


def _swaps(
    repo: Path, versions: dict[int, Expected], releases: list[Expected], server: Server
) -> None:
    for turn in range(SWAPS):
        release = releases[(turn + 1) % len(releases)]
        versions[publish(release.release, repo, server=server)] = release
        say(f"bench serve swap: {turn + 1} of {SWAPS} swaps")
        time.sleep(_BETWEEN_S)
    for turn in range(ROLLBACKS):
        rollback(repo, MODEL, max(versions) - turn - 1, server=server)
        say(f"bench serve swap: {turn + 1} of {ROLLBACKS} rollbacks")
        time.sleep(_BETWEEN_S)


def _control(
    server: Triton, repo: Path, versions: dict[int, Expected], releases: list[Expected]
) -> None:
    """Swap as the user guide of Triton has it: unload, then load."""
    with triton.InferenceServerClient(server.url) as client:
        for turn in range(SWAPS):
            release = releases[(turn + 1) % len(releases)]
            versions[publish(release.release, repo)] = release
            client.unload_model(MODEL, headers=dict(server.headers))
            _until(lambda: not client.is_model_ready(MODEL))
            client.load_model(MODEL, headers=dict(server.headers))
            say(f"bench serve swap: {turn + 1} of {SWAPS} swaps by unload and load")
            time.sleep(_BETWEEN_S)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)


def _judged(seen: dict[str, object], seconds: float) -> dict[str, object]:
    worst, bar = seen["max_ms"], seen["max_bar_ms"]
    assert isinstance(worst, float)
    assert isinstance(bar, float)
    missed = [key for key in ("failed", "wrong") if seen[key]]
    missed += ["max_ms"] * (worst > bar)
    swaps = {"swaps": SWAPS, "rollbacks": ROLLBACKS, "seconds": seconds}
    return swaps | seen | {"missed": missed}
