"""Batches in shared memory: the same answers, nothing overwritten, nothing left behind."""

import asyncio
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from bandstop.client import AsyncClient, Client, DeadlineExceeded
from bandstop.client.messages import to_bytes
from bandstop.client.shm import ShmTransport
from bandstop.client.wire import InferRequest, Place, Tensor, encode
from tests.client_fakes import LABELS, NumpyModel, Servicer, grpc_server, picture, stuck
from tests.servers import until

SIZE = (160, 160)
MODEL = NumpyModel(size=SIZE, slots=1, allow_none=True)
Code = grpc.StatusCode
Abort = tuple[grpc.StatusCode, str]


def path_of(region: str) -> Path:
    return Path("/dev/shm") / region


@dataclass(slots=True)
class Sharer(Servicer):
    """A Servicer that takes inputs from shared memory, as Triton does.

    Attributes:
        refuse: what registering ends with, in turn; None lets one pass.
        hold: how often it refuses to let go of a region.
        known: the regions that it knows now.
        told: sizes of all regions that it was told of.
        names: of these.
        used: the region of each inference, "" for the wire.
        left: regions that it was asked to let go of, refused or not.
    """

    refuse: list[Abort | None] = field(default_factory=list)
    hold: int = 0
    known: dict[str, mmap.mmap] = field(default_factory=dict)
    told: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def SystemSharedMemoryRegister(  # noqa: N802 - the protocol's name
        self, request: service_pb2.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> object:
        self.told.append(request.byte_size)
        self.names.append(request.name)
        refusal = self.refuse.pop(0) if self.refuse else None
        if refusal is not None:
            context.abort(*refusal)
        path = path_of(request.key.removeprefix("/"))
        assert path.stat().st_mode & 0o777 == 0o600
        with path.open("r+b") as file:
            self.known[request.name] = mmap.mmap(file.fileno(), request.byte_size)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(  # noqa: N802 - the protocol's name
        self,
        request: service_pb2.SystemSharedMemoryUnregisterRequest,
        context: grpc.ServicerContext,
    ) -> object:
        assert request.name  # without it, all clients lose theirs
        self.left.append(request.name)
        if self.hold:
            self.hold -= 1
            context.abort(Code.INTERNAL, "Cannot unregister: it is currently in use.")
        self.known.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> object:
        contents = list(request.raw_input_contents)
        for at, tensor in enumerate(request.inputs):
            name = tensor.parameters["shared_memory_region"].string_param
            size = tensor.parameters["shared_memory_byte_size"].int64_param
            if tensor.name == "image":
                self.used.append(name)
            if name:
                assert not path_of(name).exists()  # a crash leaves nothing
                if name not in self.known:
                    text = f"Unable to find shared memory region: '{name}'"
                    context.abort(Code.NOT_FOUND, text)
                contents.insert(at, self.known[name][:size])
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(contents)
        return super(Sharer, self).ModelInfer(request, context)  # slots: no bare super()


@contextmanager
def serving(sharer: Sharer) -> Iterator[str]:
    with grpc_server(sharer) as address:
        yield address
    assert not any(path_of(name).exists() for name in sharer.names)


def asked(client: Client, *values: int) -> list[str]:
    pixels = [picture(value, SIZE) for value in values]
    return [found.names[0] for found in client.classify(pixels, forget="eel", top_k=1)]


def sharing(address: str, **options: object) -> Client:
    return Client(address, "pixel", shared_memory=True, **options)  # type: ignore[arg-type]


# --- where it works


def test_batches_of_any_size_are_answered_from_few_regions() -> None:
    server = Sharer(MODEL)
    with serving(server) as address, sharing(address) as client:
        assert asked(client, 1) == ["bee"]
        assert asked(client, 3, 2, 0) == ["dog", "cat", "ant"]
        assert asked(client, 2, 1) == ["cat", "bee"]
        image = 3 * 160 * 160 * 4
        assert server.told == [image, 3 * image]  # one that is too small gives way
        assert all(server.used)
        assert len(server.known) == 1
        assert asked(client, *(n % 4 for n in range(40))) == [LABELS[n % 4] for n in range(40)]
        assert len(server.known) <= 4
    assert server.known == {}


def test_asyncio_shares_memory_too() -> None:
    server = Sharer(MODEL)

    async def ask(address: str) -> list[str]:
        async with AsyncClient(address, "pixel", in_flight=3, shared_memory=True) as client:
            calls = [client.classify(picture(n % 4, SIZE), "eel", 1) for n in range(20)]
            return [found[0].names[0] for found in await asyncio.gather(*calls)]

    with serving(server) as address:
        assert asyncio.run(ask(address)) == [LABELS[n % 4] for n in range(20)]
    assert all(server.used)
    assert len(server.told) <= 3
    assert server.known == {}


def test_threads_share_a_client_and_never_a_region_at_a_time() -> None:
    server = Sharer(MODEL)
    wrong: list[int] = []
    with serving(server) as address, sharing(address, in_flight=2) as client:

        def work(value: int) -> None:
            wrong.extend(n for n in range(15) if asked(client, value) != [LABELS[value]])

        threads = [Thread(target=work, args=(n % 4,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(server.told) <= 2
    assert {bool(name) for name in server.used} == {True, False}  # the third goes by the wire


def test_what_is_small_goes_by_the_wire() -> None:
    server = Sharer(NumpyModel(slots=1))
    with serving(server) as address, sharing(address) as client:
        assert client.classify(picture(2), forget="bee", top_k=1)[0].names == ("cat",)
    assert server.told == []


def test_a_placed_tensor_names_its_region_and_has_no_bytes_in_the_message() -> None:
    placed = Tensor("image", "UINT8", (2, 4), b"", Place("r", 8))
    inline = Tensor("forget_class", "INT64", (2, 1), bytes(16))
    data = to_bytes(InferRequest("m", "", (placed, inline), ("logits",)))
    message = service_pb2.ModelInferRequest.FromString(data)
    assert list(message.raw_input_contents) == [bytes(16)]
    assert message.inputs[0].parameters["shared_memory_region"].string_param == "r"
    assert message.inputs[0].parameters["shared_memory_byte_size"].int64_param == 8
    assert not message.inputs[1].parameters


# --- where it does not


@pytest.mark.parametrize(
    ("refusals", "tries"),
    [
        ([(Code.INTERNAL, "Unable to open shared memory region: '/x'")], 1),
        ([(Code.UNAVAILABLE, "This protocol is restricted, expecting header 'x'")], 1),
        ([(Code.UNIMPLEMENTED, "")], 1),
        ([(Code.UNAVAILABLE, "later"), (Code.DEADLINE_EXCEEDED, "late"), None], 3),
    ],
)
def test_a_server_that_refuses_is_sent_batches_by_the_wire(
    refusals: list[Abort | None], tries: int
) -> None:
    server = Sharer(MODEL, refuse=list(refusals))
    with serving(server) as address, sharing(address) as client:
        for _ in range(4):
            assert asked(client, 2) == ["cat"]
    assert len(server.told) == tries
    assert [bool(name) for name in server.used] == ([False] * 4 if tries == 1 else [0, 0, 1, 1])


def test_without_room_batches_go_by_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(place: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    server = Sharer(MODEL)
    with serving(server) as address, sharing(address) as client:
        assert asked(client, 2, 1) == ["cat", "bee"]
    assert server.told == []


def test_of_several_addresses_none_is_told_of_memory() -> None:
    server = Sharer(MODEL)
    with serving(server) as address, sharing(f"dns:///{address}") as client:
        assert asked(client, 2) == ["cat"]
    assert server.told == []


def test_a_server_that_starts_anew_is_told_again() -> None:
    server = Sharer(MODEL)
    with serving(server) as address, sharing(address) as client:
        asked(client, *[2] * 16)
        assert len(server.known) == 2
        server.known.clear()
        assert asked(client, 1) == ["bee"]  # finds one lost: so is the other
        assert asked(client, 3) == ["dog"]
    assert len(server.told) == 3
    assert [bool(name) for name in server.used] == [True, True, True, False, True]


def test_a_server_that_does_not_keep_what_it_is_told_is_told_once() -> None:
    class Forgetful(Sharer):
        def SystemSharedMemoryRegister(  # noqa: N802 - the protocol's name
            self, request: object, context: object
        ) -> object:
            self.told.append(1)
            return service_pb2.SystemSharedMemoryRegisterResponse()

    server = Forgetful(MODEL)
    with serving(server) as address, sharing(address) as client:
        for _ in range(3):
            assert asked(client, 2) == ["cat"]
    assert server.told == [1]


# --- memory that a server may still read


def is_read(context: grpc.ServicerContext) -> None:
    """A `before` that lets an inference pass."""


def by_deadline(server: Sharer, address: str, release: Event) -> str:
    with sharing(address, deadline=0.5) as client:
        asked(client, 1)
        server.before = stuck(release)
        with pytest.raises(DeadlineExceeded):
            asked(client, 3)
        server.before = is_read
        assert asked(client, 2) == ["cat"]
    return server.used[1]


def by_letting_go(server: Sharer, address: str, release: Event) -> str:
    transport = ShmTransport(address, None, (), most=2)
    image = encode("image", np.full((1, 3, *SIZE), 2 / 255, np.float32), "FP32")
    forget = encode("forget_class", np.array([[1]]), "INT64")
    request = InferRequest("pixel", "", (image, forget), ("logits", "applied_forget_class"))
    transport.start(request, 5.0).result()
    server.before = stuck(release)
    pending = transport.start(request, 5.0)
    assert until(lambda: len(server.used) == 2)
    pending.cancel()
    server.before = is_read
    transport.start(request, 5.0).result()
    transport.close()
    return server.used[1]


def by_cancelling(server: Sharer, address: str, release: Event) -> str:
    async def ask() -> None:
        async with AsyncClient(address, "pixel", shared_memory=True) as client:
            await client.classify(picture(1, SIZE), "eel", 1)
            server.before = stuck(release)
            call = asyncio.create_task(client.classify(picture(3, SIZE), "eel", 1))
            await asyncio.to_thread(until, lambda: len(server.used) == 2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            server.before = is_read
            found = await client.classify(picture(2, SIZE), "eel", 1)
            assert found[0].names == ("cat",)

    asyncio.run(ask())
    return server.used[1]


Way = Callable[[Sharer, str, Event], str]


@pytest.mark.parametrize("way", [by_deadline, by_letting_go, by_cancelling])
def test_what_is_given_up_is_never_overwritten(way: Way) -> None:
    server, release = Sharer(MODEL, hold=1), Event()
    with serving(server) as address:
        given_up = way(server, address, release)
        release.set()
    assert given_up not in ("", server.used[-1])
    assert server.left.count(given_up) == 2  # refused once, and asked again
    assert server.known == {}
