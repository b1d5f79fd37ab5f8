"""One gated model against ten baked ones: memory, throughput and time to load, ten classes asked.

The network is the demo's. Larger ones gain as much in memory, a copy of the weights a class; in
throughput the gates cost what docs/graph.md says, and a baked file per class costs a process each.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from bandstop.bench.client_load import Job, Side, rates, ratio
from bandstop.bench.client_releases import Network, artifact_of
from bandstop.cli.output import say
from bandstop.client import Client
from bandstop.edit.classifier import Arch
from bandstop.edit.train import DIGITS
from bandstop.export.readback import server_at
from bandstop.export.record import ServingRecord
from bandstop.export.release import Options, export_release
from bandstop.export.repository import publish
from bandstop.export.spec import ExportSpec
from bandstop.serve.triton import Triton, start

DEMO = Network(DIGITS, 8, 1)
RESNET18 = Network(Arch("bandstop:resnet", {"width": 64, "blocks": "2-2-2-2"}), 32)
GATED = "gated"
BAKED = tuple(f"baked-{c}" for c in range(10))
IN_FLIGHT, REQUESTS, ROUNDS = 8, 400, 7
# The gated model gets both cores, as the ten baked ones do: two processes of one thread.
_SERVING = ServingRecord(queue_timeout_us=0, max_queue_size=0)


def measured(network: Network = DEMO, instances: int = 1) -> dict[str, object]:
    """Return the three ratios, gated / baked, and what they are made of."""
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        folder = Path(place)
        say("bench client: exports a gated release and ten baked ones")
        artifact = artifact_of(network, folder / "artifact")
        serving = _SERVING.model_copy(update={"instances": instances})
        export_release(artifact, ExportSpec("gated"), folder / GATED, Options(GATED, serving))
        first = None
        for c, name in enumerate(BAKED):
            options = Options(name, _SERVING, like=first)
            release = export_release(artifact, ExportSpec("baked", (c,)), folder / name, options)
            first = first or release
        gated_s = _load_seconds(folder, network, (GATED,), "load-one")
        baked_s = _load_seconds(folder, network, BAKED, "load-ten")
        gated_mb = _memory_mb(folder, network, (GATED,), "one")
        baked_mb = _memory_mb(folder, network, BAKED, "ten")
        ours, reference = _rates(folder, network)
    return {
        "mixed_memory_ratio": round(gated_mb / baked_mb, 3),
        "mixed_throughput_ratio": ratio(ours, reference),
        "mixed_load_ratio": round(gated_s / baked_s, 3),
        "gated_memory_mb": round(gated_mb),
        "baked_memory_mb": round(baked_mb),
        "gated_images_per_s": round(median(ours)),
        "baked_images_per_s": round(median(reference)),
        "gated_load_s": round(gated_s, 2),
        "baked_load_s": round(baked_s, 2),
    }


def _load_seconds(folder: Path, network: Network, names: Sequence[str], repo_name: str) -> float:
    """Return the seconds from the first publish to the last model's first answer."""
    repo = folder / repo_name
    publish(folder / GATED, repo, "other")  # a server has to serve something to begin with
    with start(repo) as server, server_at(server.url, headers=server.headers) as readback:
        say(f"bench client: publishes {len(names)} into a running server")
        began = time.perf_counter()
        for name in names:
            publish(folder / name, repo, server=readback)
            _ask(server, network, name, 1)
        return time.perf_counter() - began


def _memory_mb(folder: Path, network: Network, names: Sequence[str], repo_name: str) -> float:
    """Return the proportional memory of a server's processes after some requests."""
    repo = folder / repo_name
    for name in names:
        publish(folder / name, repo)
    with start(repo) as server:
        say(f"bench client: memory of a server with {len(names)}")
        for name in names:
            _ask(server, network, name, 200 // len(names))
        root = psutil.Process(server.pid)
        tree = (root, *root.children(recursive=True))
        return sum(process.memory_full_info().pss for process in tree) / 1e6


def _ask(server: Triton, network: Network, name: str, times: int) -> None:
    pixels = np.zeros((network.size, network.size, network.channels), np.uint8)
    with Client(server.url, name) as client:
        for i in range(times):
            client.logits(pixels, i % 10 if name == GATED else None)


def _rates(folder: Path, network: Network) -> list[list[float]]:
    """Return the images per second of both in the same server."""
    repo = folder / "both"
    for name in (GATED, *BAKED):
        publish(folder / name, repo)
    with start(repo) as server:
        say("bench client: traffic over ten classes")
        sides = (Side((GATED,)), Side(BAKED, gated=False))
        shape = (network.size, network.size, network.channels)
        return rates(Job(server.url, sides, shape, 1, IN_FLIGHT, REQUESTS, ROUNDS))
