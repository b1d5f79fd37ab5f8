"""Clients that ask all the time in a process of their own, which tells what it holds meanwhile.

`python -m bandstop.bench.client_soak_load URL MODEL EXPECTED SEED` ends when its input is closed,
and prints what it saw as JSON. EXPECTED is a file of NumPy: images and, by letter, probabilities.
"""

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from bandstop.client import AsyncClient, Client, Prediction

TOLERANCE = 1e-4  # of a probability; a wrong row, class or version is off by far more
_SAMPLE_S, _DEADLINE_S = 0.5, 10.0
_OURS, _ASYNC = 2, 4  # threads on one Client; tasks on one AsyncClient
LEAK = "leak"


class Load:
    """What the clients ask, and what they saw."""

    def __init__(self, url: str, model: str, expected: Path, seed: int, control: str) -> None:
        """Read the expected answers."""
        with np.load(expected) as file:
            self.wanted = {key: file[key] for key in file.files if key != "images"}
            self.images = file["images"]
        self.url, self.model, self.seed = url, model, seed
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.requests = self.wrong = 0
        self.errors: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.kept: list[bytes] | None = [] if control == LEAK else None

    def asked(self, worker: int) -> Iterator[tuple[int, int]]:
        """Yield image and class to forget until it is over; a worker sees the same each time."""
        generator = np.random.default_rng((self.seed, worker))
        while not self.over.is_set():
            yield int(generator.integers(len(self.images))), int(generator.integers(10))

    def judge(self, image: int, forget: int, found: Prediction) -> None:
        """Count an answer, and whether names, classes and numbers are those of its release."""
        letters = {name[0] for name in found.names}
        order = np.argsort([int(name[1:]) for name in found.names])
        letter = letters.pop()
        right = not letters and found.applied == (forget,) and self._near(
            letter, image, forget, np.array(found.probabilities)[order]
        )  # fmt: skip
        self._count(found.version, letter, right)

    def judge_logits(
        self, image: int, forget: int, version: str, logits: NDArray[np.float32]
    ) -> None:
        """Count an answer of a client that knows no names: one release must have said it."""
        powers = np.exp(logits.astype(np.float64) - logits.max())
        found = powers / powers.sum()
        letters = [key for key in self.wanted if self._near(key, image, forget, found)]
        self._count(version, letters[0] if letters else "?", len(letters) == 1)

    def failed(self, error: Exception) -> None:
        """Count a call that got no answer."""
        with self.lock:
            self.requests += 1
            self.errors[f"{type(error).__name__}: {str(error)[:160]}"] += 1

    def _near(self, letter: str, image: int, forget: int, found: NDArray[np.float64]) -> bool:
        return bool(np.abs(self.wanted[letter][image, forget] - found).max() <= TOLERANCE)

    def _count(self, version: str, letter: str, right: bool) -> None:
        with self.lock:
            self.requests += 1
            self.wrong += not right
            self.sources[f"{version} {letter}"] += 1
            if self.kept is not None:
                self.kept.append(bytes(4096))


def ask_blocking(load: Load, client: Client, worker: int) -> None:
    """Ask one image after the other."""
    for image, forget in load.asked(worker):
        try:
            (found,) = client.classify(load.images[image], forget)
        except Exception as error:  # whatever it is, the load goes on and tells
            load.failed(error)
        else:
            load.judge(image, forget, found)


def ask_bare(load: Load, worker: int) -> None:
    """Ask by Triton's own client, which never tries again: a swap must not need that."""
    with triton.InferenceServerClient(load.url) as client:
        for image, forget in load.asked(worker):
            pixels = load.images[image : image + 1]
            inputs = [
                triton.InferInput("image", pixels.shape, "FP32").set_data_from_numpy(pixels),
                triton.InferInput("forget_class", [1, 1], "INT64").set_data_from_numpy(
                    np.array([[forget]])
                ),
            ]
            try:
                reply = client.infer(load.model, inputs, client_timeout=_DEADLINE_S)
            except Exception as error:
                load.failed(error)
            else:
                version = reply.get_response().model_version
                load.judge_logits(image, forget, version, reply.as_numpy("logits")[0])


async def ask_async(load: Load) -> None:
    """Ask from one event loop, several at the same time."""
    async with AsyncClient(load.url, load.model) as client:

        async def work(worker: int) -> None:
            for image, forget in load.asked(worker):
                try:
                    (found,) = await client.classify(load.images[image], forget)
                except Exception as error:
                    load.failed(error)
                else:
                    load.judge(image, forget, found)

        async with asyncio.TaskGroup() as group:
            for worker in range(_ASYNC):
                group.create_task(work(100 + worker))


def held() -> list[float]:
    """Return MB of memory of its own, open descriptors and threads of this process."""
    status = Path("/proc/self/status").read_text()
    memory, threads = (int(status.split(key)[1].split()[0]) for key in ("RssAnon:", "Threads:"))
    return [memory / 1e3, float(len(list(Path("/proc/self/fd").iterdir()))), float(threads)]


def main(url: str, model: str, expected: str, seed: str, control: str) -> None:
    """Ask until the input ends."""
    load = Load(url, model, Path(expected), int(seed), control)
    samples: list[list[float]] = []
    with Client(url, model) as client:
        threads = [
            *(threading.Thread(target=ask_blocking, args=(load, client, n)) for n in range(_OURS)),
            threading.Thread(target=ask_bare, args=(load, 50)),
            threading.Thread(target=lambda: asyncio.run(ask_async(load))),
        ]
        for thread in threads:
            thread.start()
        reader = threading.Thread(target=sys.stdin.read, daemon=True)
        reader.start()
        while reader.is_alive():
            time.sleep(_SAMPLE_S)
            samples.append(held())
        load.over.set()
        for thread in threads:
            thread.join()
    told = {
        "requests": load.requests,
        "wrong": load.wrong,
        "errors": dict(load.errors),
        "sources": dict(load.sources),
        "samples": samples[:-1],
    }
    print(json.dumps(told))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:6])
