"""Clients under load as versions are swapped: failures, wrong answers, what the clients hold."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from bandstop.bench.client_soak_load import LEAK
from bandstop.bench.serve_releases import Expected, gated_releases, images
from bandstop.cli.output import say
from bandstop.export.readback import server_at
from bandstop.export.repository import publish
from bandstop.serve.triton import Triton, start

MODEL, SWAPS = "digits", 30
UNLOAD, WRONG = "unload", "wrong"
CONTROLS = (LEAK, UNLOAD, WRONG)
GROWTH_BAR_MB, REQUESTS_A_SECOND = 2.0, 10.0


def measured(seconds: float = 60.0, control: str = "", swaps: int = SWAPS) -> dict[str, object]:
    """Return what clients saw in `seconds`, and by how much what they hold grew.

    Args:
        seconds: of load.
        control: "" or what has to miss a bar: "leak" a client that keeps 4 kB of each request,
            "unload" swaps by unload and load, "wrong" expected answers of another class.
        swaps: of the version, spread over the time.
    """
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        folder = Path(place)
        say("bench client soak: exports two releases")
        releases = gated_releases(folder, "ab")
        expected = folder / "expected.npz"
        shift = 1 if control == WRONG else 0
        tables = {e.names[0][0]: np.roll(e.probabilities, shift, axis=1) for e in releases}
        np.savez(expected, images=images(), a=tables["a"], b=tables["b"])
        repo = folder / "models"
        versions = {publish(releases[0].release, repo): releases[0]}
        with start(repo) as server:
            child = ["-m", "bandstop.bench.client_soak_load", server.url, MODEL]
            with subprocess.Popen(
                [sys.executable, *child, str(expected), "0", control],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            ) as load:  # fmt: skip
                say(f"bench client soak: {seconds:.0f} s of load, {swaps} swaps")
                try:
                    _swap(server, repo, versions, releases, seconds, swaps, control)
                finally:
                    told, _ = load.communicate("")
    return judged(json.loads(told), versions, seconds, swaps)


def judged(
    seen: Mapping[str, object], versions: Mapping[int, Expected], seconds: float, swaps: int
) -> dict[str, object]:
    """Return the figures and the bars that they miss; `versions` as they were published."""
    letters = {str(number): e.names[0][0] for number, e in versions.items()}
    sources, errors, samples = seen["sources"], seen["errors"], seen["samples"]
    assert isinstance(sources, dict)
    assert isinstance(errors, dict)
    assert isinstance(samples, list)
    astray = sum(n for key, n in sources.items() if letters.get(key.split()[0]) != key.split()[1])
    requests = int(str(seen["requests"]))
    result: dict[str, object] = {
        "seconds": seconds,
        "requests": requests,
        "failed": sum(errors.values()),
        "wrong": int(str(seen["wrong"])) + astray,
        "errors": dict(sorted(errors.items(), key=lambda pair: -pair[1])[:5]),
        "swaps": len(versions) - 1,
        "versions_answered": len({key.split()[0] for key in sources}),
        "memory_mb": round(samples[-1][0], 1) if samples else 0.0,
        "growth_mb": round(growth([sample[0] for sample in samples]), 2),
        "more_descriptors": growth([sample[1] for sample in samples]),
        "more_threads": growth([sample[2] for sample in samples]),
    }
    missed = [key for key in ("failed", "wrong") if result[key]]
    missed += [key for key in ("more_descriptors", "more_threads") if float(str(result[key])) > 1]
    missed += ["growth_mb"] * (float(str(result["growth_mb"])) > GROWTH_BAR_MB)
    missed += ["requests"] * (requests < REQUESTS_A_SECOND * seconds)
    missed += ["swaps"] * (len(versions) - 1 < swaps)
    missed += ["versions_answered"] * (len({key.split()[0] for key in sources}) < len(versions) / 2)
    return result | {"missed": missed}


def growth(values: Sequence[float]) -> float:
    """Return by how much the last tenth lies above the tenth after the middle; medians."""
    tenth, half = max(1, len(values) // 10), len(values) // 2
    if not values:
        return float("inf")
    return statistics.median(values[-tenth:]) - statistics.median(values[half : half + tenth])


def _swap(
    server: Triton,
    repo: Path,
    versions: dict[int, Expected],
    releases: Sequence[Expected],
    seconds: float,
    swaps: int,
    control: str,
) -> None:
    """Publish the other release `swaps` times in the time, and wait for its end."""
    began = time.monotonic()
    with (
        server_at(server.url, headers=server.headers) as readback,
        triton.InferenceServerClient(server.url) as bare,
    ):
        for turn in range(swaps):
            time.sleep(max(0.0, began + (turn + 0.5) * seconds / swaps - time.monotonic()))
            release = releases[(turn + 1) % len(releases)]
            if control == UNLOAD:
                versions[publish(release.release, repo)] = release
                bare.unload_model(MODEL, headers=dict(server.headers))
                _until_gone(bare)
                bare.load_model(MODEL, headers=dict(server.headers))
            else:
                versions[publish(release.release, repo, server=readback)] = release
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def _until_gone(bare: triton.InferenceServerClient) -> None:
    deadline = time.monotonic() + 10
    while bare.is_model_ready(MODEL) and time.monotonic() < deadline:
        time.sleep(0.01)
