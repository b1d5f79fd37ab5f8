"""The client over real gRPC on loopback: addresses, deadlines, failures, malformed messages."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from bandstop.client import (
    BackendError,
    Client,
    ClientError,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    NotFound,
    Overloaded,
    ProtocolError,
    Restricted,
    Unavailable,
    Unreachable,
    Untrusted,
)
from bandstop.client.channel import target
from bandstop.client.status import BY_STATUS, failure, translate
from tests.client_fakes import LABELS, NumpyModel, Server, Servicer, grpc_server, picture, stuck

GATED = NumpyModel(slots=1)
Code = grpc.StatusCode


@pytest.fixture
def server() -> Iterator[Server]:
    servicer = Servicer(GATED)
    with grpc_server(servicer) as address:
        yield Server(servicer, address)


def ask(server: Server, **options: object) -> str:
    with Client(server.address, "pixel", **options) as client:  # type: ignore[arg-type]
        return client.classify(picture(2), forget="bee", top_k=1)[0].names[0]


# --- translation


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.name)
def test_every_status_has_a_translation(code: grpc.StatusCode) -> None:
    assert code in BY_STATUS
    error = translate(code, "two\nlines", "host:1")
    assert type(error) is BY_STATUS[code]
    assert str(error) == f"host:1: two lines ({code.name})"


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (Code.UNAVAILABLE, "This protocol is restricted, expecting header 'x'", Restricted),
        (Code.UNAVAILABLE, "Exceeds maximum queue size", Overloaded),
        (Code.UNAVAILABLE, "[request id: 1] Request timeout expired", Overloaded),
        (Code.UNAVAILABLE, "failed to connect to all addresses; last error: x", Unreachable),
        (Code.UNAVAILABLE, "DNS resolution failed for x", Unreachable),
        (Code.UNAVAILABLE, "connections to all backends failing; last error: x", Unreachable),
        (Code.UNAVAILABLE, "failed to connect; SSL_ERROR: CERTIFICATE_VERIFY_FAILED", Untrusted),
        (Code.UNAVAILABLE, "Socket closed", Unavailable),
        (Code.NOT_FOUND, "Request for unknown model: 'm' is not found", NotFound),
        (
            Code.NOT_FOUND,
            "Request for unknown model: 'm' has no available versions",
            Draining,
        ),
        (Code.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", InvalidInput),
        (Code.RESOURCE_EXHAUSTED, "quota", Overloaded),
        (Code.INTERNAL, "Exception deserializing response!", ProtocolError),
        (Code.INTERNAL, "onnx runtime error 2", BackendError),
    ],
)
def test_words_tell_failures_of_one_status_apart(
    code: grpc.StatusCode, details: str, kind: type[ClientError]
) -> None:
    assert type(translate(code, details, "host:1")) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("Cannot invoke RPC on closed channel!"), ClientError),
        (grpc.aio.UsageError("Channel is closed."), ClientError),
        (ValueError("odd"), BackendError),
        (grpc.aio.InternalError("odd\nthing"), BackendError),
    ],
)
def test_whatever_else_grpc_raises_has_a_translation(
    error: Exception, kind: type[ClientError]
) -> None:
    found = failure(error, "host:1")
    assert type(found) is kind
    assert "\n" not in str(found)


def test_a_long_story_is_cut() -> None:
    assert len(str(translate(Code.INTERNAL, "x" * 10_000, "host:1"))) < 600


# --- addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8001", "localhost:8001"),
        ("grpc://127.0.0.1:8001", "127.0.0.1:8001"),
        ("grpc://[::1]:8001", "[::1]:8001"),
        ("unix:/run/x/sock:18001", "unix:/run/x/sock:18001"),
        ("dns:///models.svc:8001", "dns:///models.svc:8001"),
        ("grpcs://h:1", "h:1"),
        ("ipv4:10.0.0.1:8001,10.0.0.2:8001", "ipv4:10.0.0.1:8001,10.0.0.2:8001"),
    ],
)
def test_addresses(url: str, expected: str) -> None:
    assert target(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "localhost", ":8001", "localhost:", "localhost:0", "localhost:65536", "localhost:x",
     "http://localhost:8000", "https://h:1", "grpc://h", "grpc://h:1/v2", "h:1 ", "unix:", "::1:80",
     "ipv4:1.2.3.4:1,x:2", "ipv4:1.2.3.4:1,",
     "h:\uff18", "h:1\n"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"^url .*: expected host:port"):
        Client(url, "pixel")


# --- a server that works


def test_the_answers_over_the_wire_are_the_models(server: Server) -> None:
    with Client(f"grpc://{server.address}", "pixel") as client:
        images = [picture(i % 5) for i in range(65)]
        found = client.classify(images, forget=[(i + 1) % 5 for i in range(65)], top_k=1)
        assert [one.names[0] for one in found] == [LABELS[i % 5] for i in range(65)]
        assert [one.applied for one in found] == [((i + 1) % 5,) for i in range(65)]
        assert client.ready()
        logits = client.logits(np.zeros((3, 2, 3), np.float32), forget=4)
        assert logits.tolist() == [[0, -1, -2, -3, -1e4]]


def test_a_unix_socket_reaches_the_server(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/sock:18001"
    with grpc_server(Servicer(GATED), address), Client(address, "pixel") as client:
        assert client.classify(picture(2), forget=0)[0].names[0] == "cat"


def test_a_message_over_the_servers_limit_is_told(server: Server) -> None:
    # the fake server takes 4 MB, as gRPC does when it is not told otherwise
    server.servicer.model = NumpyModel(size=(700, 700))
    with (
        Client(server.address, "pixel") as client,
        pytest.raises(InvalidInput, match="larger than max"),
    ):
        client.logits(picture(1, (700, 700)))


def test_a_reply_larger_than_grpcs_default_passes(server: Server) -> None:
    labels = tuple(map(str, range(1100)))
    server.servicer.model = NumpyModel(size=(1, 1), labels=labels, max_batch_size=1000)
    with Client(server.address, "pixel") as client:
        logits = client.logits(np.zeros((1000, 3, 1, 1), np.float32))
    assert logits.nbytes > 4 << 20


# --- deadlines


def test_a_server_that_never_answers_ends_at_the_deadline(server: Server) -> None:
    release = Event()
    with Client(server.address, "pixel", deadline=0.5) as client:
        assert client.classes == LABELS
        server.servicer.before = stuck(release)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"for model pixel within 0\.5 s") as caught:
            client.classify(picture(0), forget=0)
        assert 0.4 < time.monotonic() - started < 0.5 + 0.5
        release.set()
        server.servicer.before = lambda context: None
        assert client.classify(picture(0), forget=1)[0].names[0] == "ant"
    assert isinstance(caught.value, TimeoutError)


def test_a_port_that_accepts_and_stays_silent_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, "pixel", deadline=0.5) as client:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                client.classify(picture(0))
            assert time.monotonic() - started < 0.5 + 0.5
            assert not client.ready()


def test_the_deadline_is_for_all_batches_together(server: Server) -> None:
    server.servicer.before = lambda context: time.sleep(0.1)
    with Client(server.address, "pixel", deadline=0.6, in_flight=1) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.classify([picture(0)] * 8 * 20, forget=0)
        assert time.monotonic() - started < 0.6 + 0.5
    assert server.servicer.calls <= 7


# --- servers that are not there


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_no_server_is_told_at_once_with_the_way_to_start_one() -> None:
    url = f"127.0.0.1:{free_port()}"
    with Client(url, "pixel") as client:
        started = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            client.classify(picture(0))
        assert time.monotonic() - started < 3
        message = str(caught.value)
        assert message.startswith(f"no server answers at {url}; start one with `bandstop serve")
        assert "\n" not in message
        assert not client.ready()


def test_no_socket_file_is_told(tmp_path: Path) -> None:
    with Client(f"unix:{tmp_path}/none", "pixel") as client, pytest.raises(Unreachable):
        client.classify(picture(0))


def test_a_server_that_restarts_loses_no_call() -> None:
    address = f"127.0.0.1:{free_port()}"
    with Client(address, "pixel", deadline=20) as client:
        with grpc_server(Servicer(GATED), address):
            assert client.classify(picture(0), forget=1)[0].names[0] == "ant"
        again = Event()

        def later() -> None:
            time.sleep(0.7)
            with grpc_server(Servicer(GATED), address):
                again.wait(20)

        restart = Thread(target=later)
        restart.start()
        try:
            assert client.classify(picture(3), forget=1)[0].names[0] == "dog"
        finally:
            again.set()
            restart.join()


def test_another_protocol_on_the_port_is_one_of_our_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            web.settimeout(10)
            connection, _ = web.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        with (
            Client(f"127.0.0.1:{web.getsockname()[1]}", "pixel", deadline=2) as client,
            pytest.raises(ClientError),
        ):
            client.classify(picture(0))
        thread.join()


def test_a_closed_client_says_so(server: Server) -> None:
    client = Client(server.address, "pixel")
    client.close()
    client.close()
    with pytest.raises(ClientError, match="the client is closed"):
        client.classify(picture(0))


# --- malformed replies

Tamper = Callable[[SimpleNamespace], None]


def shape(message: SimpleNamespace) -> None:
    message.outputs[1].shape[:] = [2**62, 2**62]


def typed(message: SimpleNamespace) -> None:
    del message.raw_output_contents[:]
    message.outputs[1].contents.fp32_contents[:] = [0, 1, 2, 3, 4]


def cut(message: SimpleNamespace) -> None:
    message.raw_output_contents[1] = message.raw_output_contents[1][:7]


def empty(message: SimpleNamespace) -> None:
    message.raw_output_contents[1] = b""


def renamed(message: SimpleNamespace) -> None:
    message.outputs[1].name = "probabilities"


def datatype(message: SimpleNamespace) -> None:
    message.outputs[1].datatype = "NOPE"


def fewer(message: SimpleNamespace) -> None:
    del message.raw_output_contents[1]


def more(message: SimpleNamespace) -> None:
    message.raw_output_contents.append(b"")


def nothing(message: SimpleNamespace) -> None:
    message.CopyFrom(service_pb2.ModelInferResponse())


@pytest.mark.parametrize(
    "tamper", [shape, typed, cut, empty, renamed, datatype, fewer, more, nothing]
)
def test_malformed_replies_are_protocol_errors(server: Server, tamper: Tamper) -> None:
    server.servicer.tamper = tamper
    with pytest.raises(ProtocolError) as caught:
        ask(server)
    assert "\n" not in str(caught.value)


def test_calls_leave_no_thread_and_no_file_behind(server: Server) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - iterdir opens one more

    ask(server)
    before = open_files()
    for _ in range(20):
        ask(server)
    assert open_files() <= before + 2
