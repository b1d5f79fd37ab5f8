"""Ctrl-C in the middle of a call: it ends at once, closing ends, and the client may go on."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from tests.client_fakes import NumpyModel, Servicer, grpc_server

# Says what it does a line at a time; what it asks the server never answers, until it is released.
CHILD = """
import sys, threading, time
import numpy as np
from bandstop.client import Client, ClientError

url, what = sys.argv[1:]
one = np.full((2, 3, 3), 2, np.uint8)
client = Client(url, "pixel", deadline=60)
calls = {
    "classify": lambda: client.classify(one),
    "many": lambda: client.classify([one] * 40),
    "stream": lambda: list(client.stream([one] * 40)),
    "ready": client.ready,
    "learn": client.metadata,
}
other = threading.Thread(target=lambda: print(client.classify(one)[0].names[0], flush=True))
if what == "classify":
    client.classes
    other.start()
try:
    calls[what]()
except KeyboardInterrupt:
    print("interrupted", flush=True)
if what == "classify":
    sys.stdin.readline()
    other.join()
    print(client.classify(one)[0].names[0], flush=True)
started = time.monotonic()
client.close()
print("closed", time.monotonic() - started < 1, flush=True)
try:
    client.metadata()
except ClientError as error:
    print(str(error).split(": ")[1], flush=True)
"""


class Silent(Servicer):
    """A server that answers nothing until it is released, and counts who gave up."""

    def __init__(self) -> None:
        super().__init__(NumpyModel(), before=self.hold)
        self.release, self.ended = threading.Event(), threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.described = True

    def hold(self, context: grpc.ServicerContext) -> None:
        context.add_callback(self.ended.release)
        self.begun.release()
        self.release.wait(30)

    def ModelReady(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802
        self.hold(context)
        return super().ModelReady(request, context)

    def ModelMetadata(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802
        if not self.described:
            self.hold(context)
        return super().ModelMetadata(request, context)


@contextmanager
def asking(url: str, what: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, url, what]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def read(child: subprocess.Popen[str], lines: int) -> list[str]:
    assert child.stdout is not None
    return [child.stdout.readline().strip() for _ in range(lines)]


@pytest.mark.parametrize("what", ["many", "stream", "ready", "learn"])
def test_a_call_that_is_interrupted_ends_and_so_does_closing(what: str) -> None:
    silent = Silent()
    silent.described = what != "learn"
    with grpc_server(silent) as url, asking(url, what) as child:
        assert silent.begun.acquire(timeout=20)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        assert silent.ended.acquire(timeout=5)  # the server is told, before it would have answered
        silent.release.set()
    assert out.splitlines() == ["interrupted", "closed True", "the client is closed"]
    assert (child.returncode, err) == (0, "")


def test_the_calls_of_others_and_later_ones_are_answered() -> None:
    silent = Silent()
    with grpc_server(silent) as url, asking(url, "classify") as child:
        for _ in range(2):
            assert silent.begun.acquire(timeout=20)
        time.sleep(0.5)  # a signal while gRPC still sends may leave a lock of its own held
        child.send_signal(signal.SIGINT)
        assert read(child, 1) == ["interrupted"]
        silent.release.set()
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        out, err = child.communicate(timeout=20)
    assert out.splitlines() == ["cat", "cat", "closed True", "the client is closed"]
    assert (child.returncode, err) == (0, "")
