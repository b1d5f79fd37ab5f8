"""Clients of a real Triton that is swapped, killed, frozen, flooded or short of memory."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from bandstop.cli.load_drive import Sender, Traffic
from bandstop.cli.load_tally import Tally, quantiles_ms
from bandstop.client import AsyncClient, BackendError, Client, ClientError, DeadlineExceeded
from bandstop.export.promote import rollback
from bandstop.export.readback import server_at
from bandstop.export.repository import publish
from bandstop.serve.stubs import stubs_of
from bandstop.serve.triton import start
from tests.releases import release_folder
from tests.servers import prepare, until
from tests.whole_releases import graph, whole_release

pytestmark = pytest.mark.triton
IMAGE = np.full((1, 8, 8), 0.5, np.float32)
KILLED = """
import sys
import numpy as np
from bandstop.client import Client
with Client(sys.argv[1], "digits", deadline=60) as client:
    client.classes
    print("asking", flush=True)
    while True:
        client.classify([np.zeros((1, 8, 8), np.float32)] * 64)
"""


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    prepare()


class Users:
    """Threads that ask one client all the time, and what they got."""

    def __init__(self, client: Client, forget: int | None = None) -> None:
        self.client, self.forget = client, forget
        self.names: set[tuple[str, str]] = set()  # version, and what the best class is called
        self.answered, self.failed, self.longest = 0, list[ClientError](), 0.0

    def ask(self, ended: threading.Event) -> None:
        while not ended.is_set():
            began = time.monotonic()
            try:
                (found,) = self.client.classify(IMAGE, self.forget, 1)
            except ClientError as error:
                self.failed.append(error)
            else:
                self.names.add((found.version, found.names[0]))
                self.answered += 1
            self.longest = max(self.longest, time.monotonic() - began)

    @contextmanager
    def asking(self, threads: int = 2) -> Iterator[None]:
        assert self.client.classes
        ended = threading.Event()
        asking = [threading.Thread(target=self.ask, args=(ended,)) for _ in range(threads)]
        for thread in asking:
            thread.start()
        try:
            yield
            enough = self.answered + 20
            assert until(lambda: self.answered >= enough, 20)
        finally:
            ended.set()
            for thread in asking:
                thread.join()


# --- swaps, F14 and F15


def test_swaps_and_a_rollback_under_load_fail_no_call(tmp_path: Path) -> None:
    root, releases = tmp_path / "models", []
    for n in range(1, 5):
        names = tuple(f"{n}-{name}" for name in "abcd")
        file = graph("gated", n / 8).SerializeToString()
        releases.append(release_folder(tmp_path / str(n), file, names=names, mode="gated"))
    publish(releases[0], root)
    with start(root) as triton, Client(triton.url, "digits", deadline=20) as client:
        users = Users(client, forget=0)
        with users.asking(), server_at(triton.url, None, triton.headers) as server:
            for release in releases[1:]:
                publish(release, root, server=server)
            rollback(root, "digits", server=server)
    assert users.failed == []
    assert len(users.names) > 2
    # each answer is read by the labels of the version that gave it
    assert all(name == f"{version}-a" for version, name in users.names)


# --- a server that goes away, F16 to F18


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_server_that_is_ended_and_comes_back_loses_no_call(tmp_path: Path, how: str) -> None:
    publish(whole_release(tmp_path / "release"), tmp_path / "models")
    with (
        start(tmp_path / "models", watch=True) as triton,
        Client(triton.url, "digits", deadline=30) as client,
    ):
        users = Users(client)
        with users.asking():
            os.kill(triton.pid, signal.Signals[how])
            assert until(lambda: triton.restarts == 1, 20)
    assert users.failed == []


def test_a_frozen_server_is_late_and_not_waited_for(tmp_path: Path) -> None:
    publish(whole_release(tmp_path / "release"), tmp_path / "models")
    with (
        start(tmp_path / "models") as triton,
        Client(triton.url, "digits", deadline=0.7) as client,
    ):
        assert client.classes
        os.kill(triton.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                client.classify(IMAGE)
            assert time.monotonic() - began < 0.7 + 0.5
        finally:
            os.kill(triton.pid, signal.SIGCONT)
        assert until(client.ready)
        assert client.classify(IMAGE)


# --- other clients, F22


def test_clients_that_are_killed_in_mid_request_harm_nobody(tmp_path: Path) -> None:
    publish(whole_release(tmp_path / "release"), tmp_path / "models")
    with start(tmp_path / "models") as triton, Client(triton.url, "digits") as client:
        users = Users(client)
        with users.asking():
            for _ in range(3):
                command = [sys.executable, "-c", KILLED, triton.url]
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
                    assert other.stdout is not None
                    assert other.stdout.readline() == "asking\n"
                    time.sleep(0.2)
                    other.kill()
        before = psutil.Process(triton.pid).num_fds()
        assert triton.alive
        assert client.classify(IMAGE)
        assert psutil.Process(triton.pid).num_fds() <= before
    assert users.failed == []


# --- memory, F23


def write_greedy(folder: Path, columns: int = 1 << 20) -> Path:
    """A release whose graph takes 4 MiB for each image of a batch."""
    model = graph("baked")
    ones = onnx.numpy_helper.from_array(np.ones((1, columns), np.float32), "wide")
    model.graph.initializer.append(ones)
    gemm = model.graph.node[-1]
    node = onnx.helper.make_node
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    model.graph.initializer.append(axes)
    for made in (
        node("ReduceMax", ["flat", "axes"], ["one"], keepdims=1),
        node("MatMul", ["one", "wide"], ["large"]),
        node("ReduceMean", ["large", "axes"], ["mean"], keepdims=1),
        node("Sub", ["mean", "one"], ["nothing"]),
        node("Add", ["flat", "nothing"], ["same"]),
    ):
        model.graph.node.insert(len(model.graph.node) - 1, made)
    gemm.input[0] = "same"
    names = ("cat", "", 'naïve "fish"', "bird")
    return release_folder(folder, model.SerializeToString(), names=names, mode="baked")


def test_a_batch_that_memory_does_not_suffice_for_fails_alone(tmp_path: Path) -> None:
    publish(write_greedy(tmp_path / "release"), tmp_path / "models")
    config = tmp_path / "models" / "digits" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 512"))
    with (
        start(tmp_path / "models", watch=True) as triton,
        Client(triton.url, "digits", deadline=20) as client,
    ):
        expected = client.classify(IMAGE)
        for stub in stubs_of(triton.pid, "digits"):
            most = stub.memory_info().vms + (256 << 20)
            stub.rlimit(resource.RLIMIT_AS, (most, most))
        users = Users(client)
        with users.asking():
            for _ in range(3):
                with pytest.raises(BackendError) as caught:
                    client.logits(np.stack([IMAGE] * 512))  # takes 2 GiB
                assert "\n" not in str(caught.value)
        assert users.failed == []
        assert client.classify(IMAGE) == expected


# --- overload, F24


def write_slow(folder: Path, width: int = 2048, layers: int = 12) -> Path:
    """A release whose graph takes some 20 ms for an image."""
    model = graph("baked", 0.0)
    gemm = model.graph.node[-1]
    into = onnx.numpy_helper.from_array(np.zeros((64, width), np.float32), "into")
    square = onnx.numpy_helper.from_array(np.zeros((width, width), np.float32), "square")
    out = onnx.numpy_helper.from_array(np.zeros((width, 64), np.float32), "out")
    model.graph.initializer.extend([into, square, out])
    names = ["flat", *(f"layer{i}" for i in range(layers + 2))]
    weights = ["into", *["square"] * layers, "out"]
    for i, weight in enumerate(weights):
        made = onnx.helper.make_node("MatMul", [names[i], weight], [names[i + 1]])
        model.graph.node.insert(len(model.graph.node) - 1, made)
    gemm.input[0] = names[-1]
    labels = ("cat", "", 'naïve "fish"', "bird")
    return release_folder(folder, model.SerializeToString(), names=labels, mode="baked")


def rate(tally: Tally) -> float:
    return len(tally.latencies) / tally.seconds


def test_an_overloaded_server_refuses_what_is_too_much_and_recovers(tmp_path: Path) -> None:
    publish(write_slow(tmp_path / "release"), tmp_path / "models")
    config = tmp_path / "models" / "digits" / "config.pbtxt"
    text = config.read_text().replace("max_queue_size: 256", "max_queue_size: 8")
    config.write_text(text.replace("max_batch_size: 8", "max_batch_size: 1"))

    before, flood, after = Tally(), Tally(), Tally()

    async def load() -> float:
        async with AsyncClient(triton.url, "digits", in_flight=1024, deadline=10) as client:
            await client.classes
            traffic = Traffic([IMAGE], (), 1, seed=0)
            await Sender(client, traffic, before).closed(4, 1.5)
            await Sender(client, traffic, flood).open(3 * rate(before), 4)
            began = time.monotonic()
            await client.classify(IMAGE)
            recovery = time.monotonic() - began
            await Sender(client, traffic, after).closed(4, 1.5)
            return recovery

    with start(tmp_path / "models") as triton:
        assert asyncio.run(load()) < 5
        assert triton.alive
    assert (before.failures, after.failures) == ({}, {})
    assert set(flood.failures) == {"Overloaded"}
    # nothing is lost to the flood but what other work on this machine takes meanwhile
    assert rate(flood) > 0.5 * min(rate(before), rate(after))
    # ten waits of the queue, and a few tries that are up to a second apart
    assert float(quantiles_ms(flood.latencies)["p99"] or 0) < 3000
