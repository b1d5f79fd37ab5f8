"""Images per second that ways of asking get out of a server, in turns.

`python -m bandstop.bench.client_load JOB` with a job as JSON prints a list of rates a side.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bandstop.client import AsyncClient

_IMAGES = 16
_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Side:
    """One way to ask.

    Attributes:
        models: one for all classes, or one for each class in turn.
        gated: whether a request names the class.
        floats: whether images are given as float32 (c, h, w), not uint8 (h, w, c) as decoders do.
        shared: whether they are handed over in shared memory.
    """

    models: tuple[str, ...]
    gated: bool = True
    floats: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What is measured.

    Attributes:
        url: of the server.
        sides: that are compared, in turns.
        shape: of an image (h, w, c).
        batch: images in a request.
        in_flight: requests under way.
        requests: of a side in a round, over ten classes.
        rounds: of all sides.
        headers: of the requests; a server may want a token from who shares memory.
    """

    url: str
    sides: tuple[Side, ...]
    shape: tuple[int, int, int]
    batch: int
    in_flight: int
    requests: int
    rounds: int = 7
    headers: tuple[tuple[str, str], ...] = ()


def rates(job: Job) -> list[list[float]]:
    """Return the images per second of each side by round, asked from a process of its own."""
    command = [sys.executable, "-m", "bandstop.bench.client_load", json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: list[list[float]] = json.loads(done.stdout)
    return found


def ratio(ours: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over the rounds of ours / reference."""
    return round(median(a / b for a, b in zip(ours, reference, strict=True)), 3)


async def _all(job: Job) -> list[list[float]]:
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, *job.shape), np.uint8)
    asked = sorted({(name, side.shared) for side in job.sides for name in side.models})
    clients = {
        (name, shared): AsyncClient(
            job.url,
            name,
            deadline=_DEADLINE_S,
            in_flight=job.in_flight,
            headers=job.headers,
            shared_memory=shared,
        )
        for name, shared in asked
    }
    given = {
        False: pixels,
        True: np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255),
    }
    found: list[list[float]] = [[] for _ in job.sides]
    for turn in range(-1, job.rounds):  # the first is a warm-up
        order = list(enumerate(job.sides))
        for index, side in order if turn % 2 else reversed(order):
            rate = await _rate(job, side, clients, given[side.floats])
            if turn >= 0:
                found[index].append(rate)
    for client in clients.values():
        await client.close()
    return found


async def _rate(
    job: Job,
    side: Side,
    clients: dict[tuple[str, bool], AsyncClient],
    pixels: NDArray[np.generic],
) -> float:
    async def worker(first: int) -> None:
        for i in range(first, job.requests, job.in_flight):
            images = [pixels[(i + k) % _IMAGES] for k in range(job.batch)]
            client = clients[side.models[i % len(side.models)], side.shared]
            await client.logits(images, i % 10 if side.gated else None)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for first in range(job.in_flight):
            group.create_task(worker(first))
    return job.requests * job.batch / (time.perf_counter() - started)


def _read(text: str) -> Job:
    values = json.loads(text)
    sides = tuple(Side(**{**side, "models": tuple(side["models"])}) for side in values["sides"])
    headers = tuple((name, value) for name, value in values["headers"])
    known = {"sides": sides, "shape": tuple(values["shape"]), "headers": headers}
    return Job(**{**values, **known})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_all(_read(sys.argv[1])))))  # noqa: T201
