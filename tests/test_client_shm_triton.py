"""Shared memory with a real Triton: the same bits, the token, a lost region, a killed client."""

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client import AsyncClient, Client
from bandstop.serve.errors import MachineError
from bandstop.serve.triton import Triton, find_server, start
from tests.test_client_triton import write_repository

pytestmark = pytest.mark.triton
SIDE = 160


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with contextlib.suppress(MachineError):
        find_server()
        with start(write_repository(tmp_path_factory.mktemp("shm") / "repo", SIDE)) as triton:
            yield triton
        return
    pytest.skip("no tritonserver is installed")


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((20, 3, SIDE, SIDE), np.float32)


def mapped(server: Triton) -> set[str]:
    """The regions of clients that the server has before it."""
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    return set(re.findall(r"/dev/shm/(bandstop-client-[0-9a-f]{32})", maps))


def sharing(server: Triton) -> Client:
    return Client(server.url, "rows", headers=server.headers, shared_memory=True)


def test_answers_are_equal_bit_by_bit_with_and_without(
    server: Triton, images: NDArray[np.float32]
) -> None:
    async def ask() -> NDArray[np.float32]:
        options = {"headers": server.headers, "shared_memory": True}
        async with AsyncClient(server.url, "rows", **options) as client:  # type: ignore[arg-type]
            found = await client.logits(images)
            assert 1 <= len(mapped(server)) <= 4
            return found

    with Client(server.url, "rows") as client:
        wire = client.logits(images)
    assert mapped(server) == set()
    with sharing(server) as client:
        for _ in range(3):
            assert client.logits(images).tobytes() == wire.tobytes()
            assert client.logits(images[:1]).tobytes() == wire[:1].tobytes()
        names = mapped(server)
        assert 1 <= len(names) <= 4
        assert not any((Path("/dev/shm") / name).exists() for name in names)
    assert mapped(server) == set()
    assert asyncio.run(ask()).tobytes() == wire.tobytes()
    assert mapped(server) == set()


def test_without_the_token_answers_come_by_the_wire(
    server: Triton, images: NDArray[np.float32]
) -> None:
    with Client(server.url, "rows", shared_memory=True) as client:
        found = client.logits(images)
        assert mapped(server) == set()
    np.testing.assert_array_equal(found, images.reshape(20, -1)[:, :10])


def test_a_region_that_the_server_lost_is_replaced(
    server: Triton, images: NDArray[np.float32]
) -> None:
    with sharing(server) as client, grpc.insecure_channel(server.url) as channel:
        client.logits(images[:2])
        (lost,) = mapped(server)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = service_pb2.SystemSharedMemoryUnregisterRequest(name=lost)
        stub.SystemSharedMemoryUnregister(message, metadata=server.headers)
        for shift in range(3):
            wanted = images[shift : shift + 2].reshape(2, -1)[:, :10]
            np.testing.assert_array_equal(client.logits(images[shift : shift + 2]), wanted)
        assert len(mapped(server)) == 1
        assert lost not in mapped(server)


KILLED = """
import os, signal, sys
import numpy as np
from bandstop.client import Client
header, token = sys.argv[2:]
client = Client(sys.argv[1], "rows", headers={header: token}, shared_memory=True)
client.logits(np.zeros((8, 3, 160, 160), np.float32))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_client_leaves_no_file(server: Triton) -> None:
    ((header, token),) = server.headers
    command = [sys.executable, "-c", KILLED, server.url, header, token]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (name,) = mapped(server)  # the server keeps what it was told of until it ends
    assert not (Path("/dev/shm") / name).exists()
