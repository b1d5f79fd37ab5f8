"""Processor time of a request: ours against tritonclient.grpc, the same request on the wire.

`python -m bandstop.bench.client_cpu URL MODEL REQUESTS` prints the comparisons as JSON. It is a
process of its own, as small as an application that only asks: nothing else is timed with it.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from statistics import median

import numpy as np
import tritonclient.grpc as bare
import tritonclient.grpc.aio as bare_aio
from numpy.typing import NDArray

from bandstop.bench.timing import Comparison, interleaved
from bandstop.client import AsyncClient, Client

SIDE, IMAGES, FORGET = 32, 16, 3
ROUNDS, IN_FLIGHT = 41, 32  # many and short, for a machine whose speed changes
_DEADLINE_S = 10.0
_OUTPUTS = ("logits", "applied_forget_class")


def images() -> NDArray[np.float32]:
    """Return the images (n, 3, 32, 32) that are sent in turn, each on its own."""
    pixels: NDArray[np.float32] = np.random.default_rng(0).random(
        (IMAGES, 3, SIDE, SIDE), dtype=np.float32
    )
    return pixels


def sync_ratios(url: str, model: str, requests: int) -> dict[str, Comparison]:
    """Return `logits`, and `classify` too, against the same request by tritonclient."""
    pixels = images()
    with Client(url, model) as ours, bare.InferenceServerClient(url) as reference:

        def by_logits() -> None:
            for i in range(requests):
                ours.logits(pixels[i % IMAGES], FORGET)

        def by_classify() -> None:
            for i in range(requests):
                ours.classify(pixels[i % IMAGES], FORGET, 1)

        def by_reference() -> None:
            for i in range(requests):
                inputs, outputs = _asked(pixels[i % IMAGES])
                found = reference.infer(model, inputs, outputs=outputs, client_timeout=_DEADLINE_S)
                found.as_numpy("logits")

        for once in (by_logits, by_classify, by_reference):
            once()
        return {
            "sync": interleaved(by_logits, by_reference, ROUNDS),
            "sync_classify": interleaved(by_classify, by_reference, ROUNDS),
        }


def async_ratios(url: str, model: str, requests: int) -> dict[str, Comparison]:
    """Return the same with 32 requests under way in one event loop."""
    pixels = images()
    with asyncio.Runner() as runner:

        async def opened() -> tuple[AsyncClient, bare_aio.InferenceServerClient]:
            return AsyncClient(url, model, in_flight=IN_FLIGHT), bare_aio.InferenceServerClient(url)

        ours, reference = runner.run(opened())

        async def logits(i: int) -> None:
            await ours.logits(pixels[i % IMAGES], FORGET)

        async def classify(i: int) -> None:
            await ours.classify(pixels[i % IMAGES], FORGET, 1)

        async def by_reference(i: int) -> None:
            inputs, outputs = _asked(pixels[i % IMAGES])
            found = await reference.infer(
                model, inputs, outputs=outputs, client_timeout=_DEADLINE_S
            )
            found.as_numpy("logits")

        def all_by(one: Callable[[int], Awaitable[None]]) -> Callable[[], None]:
            return lambda: runner.run(_together(one, requests))

        for once in (logits, classify, by_reference):
            all_by(once)()
        found = {
            "async": interleaved(all_by(logits), all_by(by_reference), ROUNDS),
            "async_classify": interleaved(all_by(classify), all_by(by_reference), ROUNDS),
        }
        runner.run(ours.close())
        runner.run(reference.close())
    return found


async def _together(one: Callable[[int], Awaitable[None]], requests: int) -> None:
    """Make `requests` calls, 32 at a time."""

    async def worker(first: int) -> None:
        for i in range(first, requests, IN_FLIGHT):
            await one(i)

    async with asyncio.TaskGroup() as group:
        for first in range(IN_FLIGHT):
            group.create_task(worker(first))


def _asked(pixels: NDArray[np.float32]) -> tuple[list[object], list[object]]:
    """Return the inputs and the wanted outputs of one image, as tritonclient takes them."""
    image = bare.InferInput("image", [1, 3, SIDE, SIDE], "FP32")
    image.set_data_from_numpy(pixels[np.newaxis])
    forget = bare.InferInput("forget_class", [1, 1], "INT64")
    forget.set_data_from_numpy(np.array([[FORGET]], np.int64))
    return [image, forget], [bare.InferRequestedOutput(name) for name in _OUTPUTS]


def main(url: str, model: str, requests: int) -> None:
    """Print all comparisons."""
    # one at a time waits for the server far longer than it computes
    few = requests // 4
    told = {name: _told(one, few) for name, one in sync_ratios(url, model, few).items()}
    told |= {name: _told(one, requests) for name, one in async_ratios(url, model, requests).items()}
    print(json.dumps(told))  # noqa: T201


def _told(found: Comparison, requests: int) -> dict[str, object]:
    ours, reference = (
        round(1e6 * median(spent.cpu for spent in side) / requests, 1)
        for side in (found.ours, found.reference)
    )
    return found.as_json() | {"ours_us": ours, "reference_us": reference}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
