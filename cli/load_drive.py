"""Requests at a server: so many at the same time, or so many a second."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandstop.cli.load_tally import Tally
from bandstop.client import AsyncClient, ClientError


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is asked.

    Attributes:
        images: to choose from.
        forget: what to choose from for each image; empty for a baked model.
        batch: images of a request.
        seed: of the choices and of the arrivals.
    """

    images: Sequence[NDArray[np.generic]]
    forget: Sequence[int | str]
    batch: int
    seed: int


class Sender:
    """Sends requests of `traffic` with `client` and tells `tally` what comes of them."""

    def __init__(self, client: AsyncClient, traffic: Traffic, tally: Tally) -> None:
        """Prepare; nothing is sent yet."""
        self._client, self._traffic, self._tally = client, traffic, tally
        self._random = np.random.default_rng(traffic.seed)
        self._start = 0.0

    async def closed(self, concurrency: int, seconds: float) -> None:
        """Keep `concurrency` requests under way for `seconds`; wait for the last answers."""
        self._start = time.perf_counter()
        end = self._start + seconds

        async def worker() -> None:
            while (now := time.perf_counter()) < end:
                await self._send(now)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())

    async def open(self, rate: float, seconds: float) -> None:
        """Send `rate` requests a second for `seconds`, at random times of a Poisson process.

        A request is due at its time whatever became of those before, and its latency counts from
        there: a server that falls behind cannot hide it (coordinated omission).
        """
        arrivals = np.random.default_rng((self._traffic.seed, 1))
        self._start, due = time.perf_counter(), 0.0
        async with asyncio.TaskGroup() as group:
            while (due := due + float(arrivals.exponential(1 / rate))) < seconds:
                at = self._start + due
                # also where it is late already: those under way are to go on
                await asyncio.sleep(max(0.0, at - time.perf_counter()))
                self._tally.lags.append(max(0.0, time.perf_counter() - at))
                group.create_task(self._send(at))

    async def _send(self, since: float) -> None:
        """Ask once; the latency counts from `since`."""
        asked, many = self._traffic, self._traffic.batch
        images = [asked.images[i] for i in self._random.integers(len(asked.images), size=many)]
        forget: list[int | str] | None = None
        if asked.forget:
            chosen = self._random.integers(len(asked.forget), size=many)
            forget = [asked.forget[i] for i in chosen]
        try:
            found = await self._client.classify(images, forget, 1)
        except ClientError as error:
            self._tally.failed(error)
        else:
            self._tally.answered(found, time.perf_counter() - since)
        self._tally.seconds = time.perf_counter() - self._start
