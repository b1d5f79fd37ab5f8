"""What goes wrong on the way, for both clients: one of our errors in time, or no error at all."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from threading import Event

import grpc
import numpy as np
import pytest

from bandstop.client import (
    AsyncClient,
    BackendError,
    Client,
    ClientError,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    NotFinite,
    NotFound,
    Overloaded,
    Prediction,
    ProtocolError,
    Restricted,
    Unavailable,
    Unreachable,
)
from tests.client_fakes import LABELS, NumpyModel, Server, Servicer, grpc_server, picture, stuck
from tests.client_proxy import Proxy, proxy

GATED = NumpyModel(slots=1)
Code = grpc.StatusCode
Ask = Callable[..., list[Prediction]]


@pytest.fixture
def server() -> Iterator[Server]:
    servicer = Servicer(GATED)
    with grpc_server(servicer) as address:
        yield Server(servicer, address)


def ask_blocking(url: str, *values: int, **options: object) -> list[Prediction]:
    with Client(url, "pixel", **options) as client:  # type: ignore[arg-type]
        found: list[Prediction] = []
        for value in values or (2,):
            found += client.classify(picture(value), forget="bee", top_k=1)
    return found


def ask_async(url: str, *values: int, **options: object) -> list[Prediction]:
    async def ask() -> list[Prediction]:
        async with AsyncClient(url, "pixel", **options) as client:  # type: ignore[arg-type]
            found: list[Prediction] = []
            for value in values or (2,):
                found += await client.classify(picture(value), forget="bee", top_k=1)
        return found

    return asyncio.run(ask())


@pytest.fixture(params=[ask_blocking, ask_async], ids=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


def names(found: list[Prediction]) -> list[str]:
    return [one.names[0] for one in found]


def aborts(code: grpc.StatusCode, details: str, times: int) -> Callable[[object], None]:
    left = [None] * times

    def before(context: object) -> None:
        if left:
            left.pop()
            assert isinstance(context, grpc.ServicerContext)
            context.abort(code, details)

    return before


# --- the server's refusals


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (Code.UNAVAILABLE, "This protocol is restricted, expecting header", Restricted),
        (Code.INTERNAL, "onnx runtime error 2", BackendError),
        (Code.NOT_FOUND, "Request for unknown model", NotFound),
        (Code.PERMISSION_DENIED, "no", Restricted),
        (Code.INVALID_ARGUMENT, "unexpected shape for input 'image'", InvalidInput),
        (Code.UNIMPLEMENTED, "", ProtocolError),
    ],
)
def test_a_lasting_refusal_is_asked_exactly_once(
    server: Server, ask: Ask, code: grpc.StatusCode, details: str, kind: type[ClientError]
) -> None:
    server.servicer.before = aborts(code, details, 99)
    with pytest.raises(kind):
        ask(server.address)
    assert server.servicer.calls == 1


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (Code.NOT_FOUND, "Request for unknown model: 'pixel' has no available versions"),
        (Code.UNAVAILABLE, "Exceeds maximum queue size"),
        (Code.UNAVAILABLE, "Socket closed"),
        (Code.CANCELLED, ""),
    ],
)
def test_a_passing_refusal_is_asked_again(
    server: Server, ask: Ask, code: grpc.StatusCode, details: str
) -> None:
    server.servicer.before = aborts(code, details, 2)
    assert names(ask(server.address)) == ["cat"]
    assert server.servicer.calls == 3


def test_a_drain_that_lasts_is_told_as_one(server: Server, ask: Ask) -> None:
    server.servicer.before = aborts(Code.NOT_FOUND, "'pixel' has no available versions", 999)
    with pytest.raises(Draining):
        ask(server.address, deadline=0.4)


def test_many_clients_of_a_failing_server_do_not_storm_it(server: Server) -> None:
    clients = [Client(server.address, "pixel", deadline=20) for _ in range(5)]
    assert all(client.classes == LABELS for client in clients)
    server.servicer.before = aborts(Code.UNAVAILABLE, "Exceeds maximum queue size", 9999)
    failed = 0
    for client in clients:
        with client:
            client._questions._patience.budget.tokens = 2  # as after a while of failures
            for _ in range(20):
                with pytest.raises(Overloaded):
                    client.classify(picture(0), forget=0)
                failed += 1
    assert server.servicer.calls <= failed * 1.2


# --- replies that are none


def cut(message: object) -> None:
    message.raw_output_contents[1] = message.raw_output_contents[1][:7]  # type: ignore[attr-defined]


def swapped(message: object) -> None:
    contents = message.raw_output_contents  # type: ignore[attr-defined]
    contents[0], contents[1] = contents[1], contents[0]


def swapped_names(message: object) -> None:
    first, second = message.outputs  # type: ignore[attr-defined]
    first.name, second.name = second.name, first.name


def nan(message: object) -> None:
    message.raw_output_contents[1] = np.full(5, np.nan, "<f4").tobytes()  # type: ignore[attr-defined]


def version(message: object) -> None:
    message.model_version = "7"  # type: ignore[attr-defined]


def model(message: object) -> None:
    message.model_name = "other"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("tamper", "kind"),
    [
        (cut, ProtocolError),
        (swapped, ProtocolError),
        (swapped_names, ProtocolError),
        (nan, NotFinite),
        (version, ProtocolError),
        (model, ProtocolError),
    ],
)
def test_a_malformed_reply_is_a_typed_error(
    server: Server, ask: Ask, tamper: Callable[[object], None], kind: type[ClientError]
) -> None:
    server.servicer.tamper = tamper
    with pytest.raises(ProtocolError) as caught:
        ask(server.address)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_row_of_no_numbers_names_its_image(server: Server) -> None:
    """Five images in batches of two, two and one: the last row of the last batch is bad."""

    def last(message: object) -> None:
        if len(message.raw_output_contents[1]) == 20:  # type: ignore[attr-defined]
            nan(message)

    server.servicer.model = NumpyModel(slots=1, max_batch_size=2)
    server.servicer.tamper = last
    images = [picture(i) for i in range(5)]
    with Client(server.address, "pixel") as client:
        with pytest.raises(NotFinite, match=r"not finite for image 4$"):
            client.classify(images, forget=1)
        stream = client.stream(images, forget=0, top_k=1)
        assert [next(stream).names[0] for _ in range(4)] == ["bee", "bee", "cat", "dog"]
        with pytest.raises(NotFinite, match=r"not finite for image 4$"):
            next(stream)


# --- the way to the server


def test_a_frozen_server_ends_at_the_deadline_and_the_client_lives_on(server: Server) -> None:
    release = Event()
    with Client(server.address, "pixel", deadline=0.5) as client:
        assert client.classes == LABELS
        server.servicer.before = stuck(release)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.classify([picture(0)] * 20, forget=0)
        assert time.monotonic() - started < 0.5 + 0.2
        release.set()
        server.servicer.before = lambda context: None
        assert names(client.classify(picture(0), forget=1)) == ["ant"]


@pytest.mark.parametrize("pause", [0.05, 3.0])
def test_a_slow_way_is_borne_until_the_deadline(server: Server, ask: Ask, pause: float) -> None:
    with proxy(server.address) as between:
        between.pause = pause
        started = time.monotonic()
        if pause < 1:
            assert names(ask(between.address, deadline=5)) == ["cat"]
        else:
            with pytest.raises((DeadlineExceeded, Unavailable)):
                ask(between.address, deadline=0.6)
            assert time.monotonic() - started < 0.6 + 0.5


def test_a_half_open_connection_ends_at_the_deadline(server: Server) -> None:
    with proxy(server.address) as between, Client(between.address, "pixel", deadline=0.6) as client:
        assert client.classes == LABELS
        between.silent = True
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.classify(picture(0), forget=0)
        assert time.monotonic() - started < 0.6 + 0.2


@pytest.mark.parametrize("after", [0, 1, 9, 20, 60, 120])
def test_a_connection_reset_in_the_answer_loses_no_call(server: Server, after: int) -> None:
    def once(between: Proxy) -> None:
        while not between.resets:
            time.sleep(0.005)
        between.reset_after = None

    with proxy(server.address) as between, Client(between.address, "pixel") as client:
        assert client.classes == LABELS
        # the server has already said so much on this connection: break new ones, and this one
        between.reset_after = after
        for connection in between.connections:
            Proxy.drop(connection)
        mender = threading.Thread(target=once, args=(between,), daemon=True)
        mender.start()
        assert client.classify(picture(2), forget=1)[0].names[0] == "cat"
        mender.join(5)
    assert between.resets >= 1


@pytest.mark.parametrize("garbage", [b"\0" * 64, b"\xff" * 4096, b"HTTP/1.1 200 OK\r\n\r\nhello"])
def test_garbage_is_one_of_our_errors(server: Server, ask: Ask, garbage: bytes) -> None:
    with proxy(server.address) as between:
        between.garbage = garbage
        with pytest.raises((Unavailable, DeadlineExceeded)):
            ask(between.address, deadline=2)


def test_of_two_servers_each_gets_its_share_and_one_may_die() -> None:
    first, second = Servicer(GATED), Servicer(GATED)
    with grpc_server(first) as one:
        with grpc_server(second) as other, Client(f"ipv4:{one},{other}", "pixel") as client:
            client.classify(picture(0), forget=0)
            deadline = time.monotonic() + 5
            while not (first.calls and second.calls) and time.monotonic() < deadline:
                client.classify(picture(0), forget=0)
            before = first.calls, second.calls
            for _ in range(20):
                client.classify(picture(0), forget=0)
            assert (first.calls - before[0], second.calls - before[1]) == (10, 10)
        with Client(f"ipv4:{one},{other}", "pixel") as client:
            for _ in range(5):
                try:
                    client.classes  # noqa: B018 - a property that asks
                except Unreachable:
                    time.sleep(0.1)
            for _ in range(10):
                assert names(client.classify(picture(2), forget=1))[0] == "cat"


def test_a_name_with_all_its_addresses_is_an_address(server: Server, ask: Ask) -> None:
    port = server.address.rsplit(":", 1)[1]
    assert names(ask(f"dns:///127.0.0.1:{port}")) == ["cat"]


# --- processes and threads


def _child(client: Client, url: str, pipe: Connection) -> None:
    try:
        client.classify(picture(0), forget=0)
    except ClientError as error:
        pipe.send(str(error))
    client.close()
    with Client(url, "pixel") as own:
        pipe.send(own.classify(picture(2), forget=1)[0].names[0])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_is_told_and_may_make_its_own_client() -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    address, give = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(give, ready, done))
    process.start()
    try:
        url = address.recv()
        with Client(url, "pixel") as client:
            pid = os.fork()
            if pid == 0:
                try:
                    _child(client, url, theirs)
                finally:
                    os._exit(0)
            try:
                assert ours.poll(20)
                assert "made before a fork; make one in each process" in ours.recv()
                assert ours.poll(20)
                assert ours.recv() == "cat"
            finally:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            assert client.classify(picture(0), forget=1)[0].names[0] == "ant"
    finally:
        done.set()
        process.join(20)


def _serve(give: Connection, ready: object, done: object) -> None:
    with grpc_server(Servicer(GATED)) as address:
        give.send(address)
        done.wait(60)  # type: ignore[attr-defined]


def test_many_threads_share_a_client(server: Server) -> None:
    wrong: list[object] = []

    def work(client: Client, value: int) -> None:
        for _ in range(15):
            (found,) = client.classify(picture(value), forget=(value + 1) % 5, top_k=1)
            if (found.names, found.applied) != ((LABELS[value],), ((value + 1) % 5,)):
                wrong.append(found)

    with Client(server.address, "pixel", deadline=30) as client:
        threads = [threading.Thread(target=work, args=(client, i % 5)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
