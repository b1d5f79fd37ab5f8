"""Many images at once: bounded in flight, in order, of any length; and calls that are given up."""

import asyncio
import os
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bandstop.client import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidImage,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from bandstop.client.images import ImageLike
from bandstop.client.transport import GrpcTransport, Pending
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata
from tests.client_fakes import (
    LABELS,
    FakeTransport,
    NumpyModel,
    Servicer,
    failing,
    grpc_server,
    picture,
    stuck,
)

BAKED = NumpyModel()
GATED = NumpyModel(slots=1)


@dataclass(slots=True)
class AsyncFake:
    """NumpyModel for asyncio; an answer takes `seconds`, and counts how many are under way."""

    model: NumpyModel
    seconds: float = 0.0
    under_way: int = 0
    most: int = 0
    cancelled: int = 0
    closed: bool = False
    failures: list[ClientError] = field(default_factory=list)
    requests: list[InferRequest] = field(default_factory=list)

    async def ready(self, model: str, version: str, timeout: float) -> bool:
        return model == self.model.name

    async def metadata(self, model: str, version: str, timeout: float) -> Metadata:
        return self.model.metadata

    async def config(self, model: str, version: str, timeout: float) -> Config:
        return self.model.config

    async def infer(self, request: InferRequest, timeout: float) -> InferReply:
        self.requests.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
            if self.failures:
                raise self.failures.pop(0)
            return self.model.infer(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        self.closed = True


def blocking(transport: FakeTransport, **options: object) -> Client:
    return Client("fake:1", "pixel", transport=transport, **options)  # type: ignore[arg-type]


def asynchronous(transport: AsyncFake, **options: object) -> AsyncClient:
    return AsyncClient("fake:1", "pixel", transport=transport, **options)  # type: ignore[arg-type]


# --- blocking


def counted(taken: list[int], many: int) -> Iterator[np.ndarray]:
    for i in range(many):
        taken.append(i)
        yield picture(i % 5)


def test_a_stream_takes_only_what_is_needed_and_keeps_order() -> None:
    taken: list[int] = []
    transport = FakeTransport(GATED)
    stream = blocking(transport, in_flight=3).stream(counted(taken, 1000), forget="eel", top_k=1)
    assert taken == []
    assert next(stream).names == ("ant",)
    assert len(taken) == 3 * GATED.max_batch_size
    rest = [one.names[0] for one in stream]
    assert rest == [("ant", "bee", "cat", "dog", "dog")[i % 5] for i in range(1, 1000)]
    assert {request.inputs[0].shape[0] for request in transport.requests} == {8}


def test_a_long_stream_needs_no_more_memory_than_a_short_one() -> None:
    large = NumpyModel(size=(64, 64))  # 48 KiB an image, 384 KiB a batch
    one = blocking(FakeTransport(large))
    one.classify(picture(0, (64, 64)))

    class Forgetful(FakeTransport):
        def infer(self, request: InferRequest, timeout: float) -> InferReply:
            return self.model.infer(request)

    one = blocking(Forgetful(large))
    tracemalloc.start()
    try:
        for _ in one.stream(picture(i % 5, (64, 64)) for i in range(800)):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20  # all of them are 37 MiB


def test_bad_images_of_a_stream_are_told_in_their_place() -> None:
    images: list[ImageLike] = [
        picture(0),
        b"x",
        picture(2),
        *[picture(3)] * 6,
        "missing.png",
        picture(4),
    ]
    found = list(blocking(FakeTransport(GATED)).outcomes(images, [1] * 11, top_k=1))
    bad = {i: one for i, one in enumerate(found) if isinstance(one, InvalidImage)}
    assert {i: list(one.reasons) for i, one in bad.items()} == {1: [1], 9: [9]}
    assert str(bad[1]).startswith("image 1: ")
    assert str(bad[9]).startswith("'missing.png': ")
    good = [one.names[0] for one in found if not isinstance(one, InvalidImage)]
    assert good == ["ant", "cat", *["dog"] * 6, "eel"]
    stream = blocking(FakeTransport(GATED)).stream(images, forget=1)
    next(stream)
    with pytest.raises(InvalidImage, match=r"^image 1: "):
        next(stream)


def test_a_batch_of_bad_images_asks_nothing() -> None:
    transport = FakeTransport(BAKED)
    found = list(blocking(transport).outcomes([b"x"] * 3))
    assert [type(one) for one in found] == [InvalidImage] * 3
    assert transport.requests == []


@pytest.mark.parametrize("given", [{}, set(), {"a"}, 5, bytearray(b"x"), None])
def test_what_is_no_stream_is_refused(given: object) -> None:
    with pytest.raises(InvalidInput, match=r"^images: expected"):
        list(blocking(FakeTransport(BAKED)).stream(given))  # type: ignore[arg-type]


def test_no_images_are_an_empty_stream() -> None:
    assert list(blocking(FakeTransport(BAKED)).stream([])) == []


def test_an_iterator_may_be_classified_as_a_whole() -> None:
    found = blocking(FakeTransport(GATED)).classify((picture(i) for i in range(3)), forget=4)
    assert [one.names[0] for one in found] == ["ant", "bee", "cat"]


def test_failures_among_many_batches_are_tried_again() -> None:
    transport = FakeTransport(GATED, before=failing(*[Unavailable("x")] * 3))
    found = blocking(transport).classify([picture(i % 5) for i in range(40)], forget=4, top_k=1)
    assert [one.names[0] for one in found[:4]] == list(LABELS[:4])
    assert len(transport.requests) == 5 + 3


def test_a_slow_reader_costs_no_deadline() -> None:
    """The second batch fails at once; the reader looks at the first one for longer than it has."""

    def second(transport: FakeTransport) -> None:
        if len(transport.requests) == 2:
            raise Overloaded("x")

    client = blocking(FakeTransport(BAKED, before=second), deadline=0.3, in_flight=2)
    stream = client.stream([picture(0)] * 24)
    next(stream)
    time.sleep(0.5)
    assert len(list(stream)) == 23


def test_a_stream_that_is_closed_gives_up_what_is_under_way() -> None:
    ended: list[bool] = []
    release = threading.Event()

    class Watched(GrpcTransport):
        def start(self, request: InferRequest, timeout: float) -> Pending:
            pending = super().start(request, timeout)
            pending.call.add_done_callback(lambda call: ended.append(call.cancelled()))  # type: ignore[attr-defined]
            return pending

    servicer = Servicer(GATED)
    with grpc_server(servicer) as address:
        client = Client(address, "pixel", transport=Watched(address), deadline=20)
        stream = client.stream([picture(0)] * 80, forget=1)
        for _ in range(8):  # the first batch; three more are begun and answered
            next(stream)
        until = time.monotonic() + 5
        while len(ended) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        servicer.before = stuck(release)
        next(stream)  # begins a fifth, which hangs
        started = time.monotonic()
        stream.close()
        assert time.monotonic() - started < 1
        until = time.monotonic() + 5
        while len(ended) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        release.set()
        client.close()
    assert sorted(ended) == [False] * 4 + [True]


# --- asyncio


def test_asyncio_gives_the_same_answers() -> None:
    async def run() -> None:
        async with asynchronous(AsyncFake(GATED)) as client:
            images = [picture(i % 5) for i in range(65)]
            forget = [(i + 1) % 5 for i in range(65)]
            found = await client.classify(images, forget, top_k=1)
            assert [one.names[0] for one in found] == [LABELS[i % 5] for i in range(65)]
            assert [one.applied for one in found] == [((i + 1) % 5,) for i in range(65)]
            assert await client.classes == LABELS
            assert await client.ready()
            assert (await client.metadata()).slots == 1
            logits = await client.logits(picture(0), forget=4)
            np.testing.assert_allclose(logits, [[0, -1, -2, -3, -1e4]])
            assert [one async for one in client.stream(iter(images), forget, 1)] == found

    asyncio.run(run())


def test_asyncio_streams_from_an_asynchronous_source_and_from_files(tmp_path: Path) -> None:
    for value in range(5):
        Image.fromarray(picture(value)).save(tmp_path / f"{value}.png")

    async def source() -> AsyncIterator[str]:
        for i in range(30):
            await asyncio.sleep(0)
            yield str(tmp_path / f"{i % 6}.png")

    async def run() -> list[str]:
        transport = AsyncFake(BAKED)
        client = asynchronous(transport)
        found = [one async for one in client.outcomes(source(), top_k=1)]
        assert transport.most <= 4
        return ["bad" if isinstance(one, InvalidImage) else one.names[0] for one in found]

    assert asyncio.run(run()) == [*LABELS, "bad"] * 5


def test_only_so_many_requests_are_under_way_and_the_others_wait() -> None:
    async def run() -> None:
        transport = AsyncFake(BAKED, seconds=0.01)
        client = asynchronous(transport, in_flight=3)
        await asyncio.gather(*[client.classify(picture(0)) for _ in range(30)])
        assert (transport.most, transport.under_way) == (3, 0)
        await client.classify([picture(0)] * 80)
        assert transport.most == 3

    asyncio.run(run())


def test_a_wait_for_a_slot_ends_at_the_deadline() -> None:
    async def run() -> None:
        transport = AsyncFake(BAKED)
        client = asynchronous(transport, in_flight=1, deadline=0.3)
        await client.classes
        transport.seconds = 60
        first = asyncio.create_task(client.classify(picture(0)))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=r"no answer for model pixel within 0.3 s"):
            await client.classify(picture(0))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        transport.seconds = 0
        assert len(await client.classify(picture(0))) == 1

    asyncio.run(run())


def test_a_thousand_cancelled_calls_leave_every_slot_free() -> None:
    async def run() -> None:
        transport = AsyncFake(BAKED, seconds=60)
        client = asynchronous(transport, in_flight=8)
        transport.seconds, _ = 60, await client.classes
        for _ in range(10):
            calls = [asyncio.create_task(client.classify(picture(0))) for _ in range(100)]
            await asyncio.sleep(0.01)
            for call in calls:
                call.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in done)
        assert (transport.under_way, transport.cancelled) == (0, 80)
        transport.seconds = 0
        await asyncio.gather(*[client.classify(picture(0)) for _ in range(20)])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_an_asynchronous_stream_that_is_closed_cancels_what_is_under_way() -> None:
    async def run() -> None:
        transport = AsyncFake(BAKED)
        client = asynchronous(transport)
        async with aclosing(client.stream([picture(0)] * 800)) as stream:
            await anext(stream)
            transport.seconds = 60
            for _ in range(8):
                await anext(stream)
            await asyncio.sleep(0.01)
            assert transport.under_way
        assert transport.under_way == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_one_failed_batch_ends_the_call_and_the_others() -> None:
    async def run() -> None:
        transport = AsyncFake(BAKED, failures=[ClientError("x")])
        client = asynchronous(transport)
        with pytest.raises(ClientError, match=r"^x$"):
            await client.classify([picture(0)] * 80)
        assert transport.under_way == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_over_the_wire_cancelled_calls_leave_nothing_behind() -> None:
    servicer = Servicer(GATED)
    release = threading.Event()

    async def run(address: str) -> None:
        async with AsyncClient(address, "pixel", in_flight=4) as client:
            await client.classify(picture(0), forget=0)
            servicer.before = stuck(release)
            calls = [asyncio.create_task(client.classify(picture(0), forget=0)) for _ in range(9)]
            await asyncio.sleep(0.3)
            files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - iterdir opens one more
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            release.set()
            servicer.before = lambda context: None
            assert len(await client.classify([picture(1)] * 40, forget=0)) == 40
            assert len(os.listdir("/proc/self/fd")) <= files  # noqa: PTH208
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with grpc_server(servicer) as address:
        asyncio.run(run(address))


def test_a_closed_asynchronous_client_says_so_even_in_the_middle_of_a_call() -> None:
    servicer = Servicer(GATED)
    release = threading.Event()

    async def run(address: str) -> None:
        client = AsyncClient(address, "pixel")
        await client.classes
        servicer.before = stuck(release)
        call = asyncio.create_task(client.classify(picture(0), forget=0))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await call
        release.set()
        with pytest.raises(ClientError, match="the client is closed"):
            await client.classify(picture(0), forget=0)

    with grpc_server(servicer) as address:
        asyncio.run(run(address))


def test_a_closed_blocking_client_says_so_in_the_middle_of_a_call() -> None:
    servicer = Servicer(GATED)
    release = threading.Event()
    with grpc_server(servicer) as address:
        for many in (1, 40):
            client = Client(address, "pixel", deadline=20)
            servicer.before = lambda context: None
            assert client.classes == LABELS
            servicer.before = stuck(release)
            threading.Timer(0.2, client.close).start()
            with pytest.raises(ClientError, match="the client is closed"):
                client.classify([picture(0)] * many, forget=0)
        release.set()


def test_another_event_loop_is_told() -> None:
    client = asynchronous(AsyncFake(BAKED))

    async def run() -> None:
        await client.classify(picture(0))

    asyncio.run(run())
    with pytest.raises(ClientError, match="belongs to another event loop; make one in each"):
        asyncio.run(run())


@pytest.mark.parametrize("many", [0, -1, 1025, 1.5, True, "4", None])
def test_a_wrong_bound_is_refused(many: object) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInput, match=r"^in_flight: expected 1..1024"):
            kind("h:1", "pixel", in_flight=many)  # type: ignore[arg-type]
