"""`bandstop watch`: what it makes of a server's counts."""

import contextlib
import http.server
import io
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from rich.console import Console
from tritonclient.grpc import service_pb2

from bandstop.cli import watch as command
from bandstop.cli.main import main
from bandstop.cli.watch_look import Counts, Look, fetch
from bandstop.cli.watch_metrics import read_metrics
from bandstop.cli.watch_rates import Rates, Row, rows
from bandstop.cli.watch_table import view
from bandstop.client import Client, ProtocolError, Unavailable
from bandstop.serve.access import HEADER
from bandstop.serve.triton import start
from tests.client_fakes import NumpyModel, Servicer, grpc_server
from tests.servers import prepare, until

Captured = pytest.CaptureFixture[str]
NONE = Counts(0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
SOME = Counts(10, 2, 40, 5, 1.0, 0.2, 0.3, 0.5)
LATER = Counts(30, 3, 120, 15, 4.0, 0.4, 0.7, 1.5)
KEY = ("pixel", "1")


# --- rates


def test_rates_and_means_are_of_what_happened_between_two_looks() -> None:
    (row,) = rows(Look(12.0, {KEY: LATER}), Look(10.0, {KEY: SOME}))
    assert (row.requests, row.failed, row.state) == (30, 3, "READY")
    assert row.rates.requests_per_second == pytest.approx(10)
    assert row.rates.images_per_second == pytest.approx(40)
    assert row.rates.failed_per_second == pytest.approx(0.5)
    assert row.rates.latency_ms == pytest.approx(150)
    assert row.rates.queue_ms == pytest.approx(20)
    assert row.rates.compute_ms == pytest.approx(50)
    assert row.rates.batch == pytest.approx(8)
    assert row.rates.in_flight == pytest.approx(1.6)
    assert (row.pending, row.forgotten) == (None, None)


def test_what_cannot_be_known_is_told_as_nothing() -> None:
    (first,) = rows(Look(1.0, {KEY: SOME}), None)
    assert (first.requests, first.rates.requests_per_second, first.rates.latency_ms) == (
        10,
        None,
        None,
    )
    (idle,) = rows(Look(2.0, {KEY: SOME}), Look(1.0, {KEY: SOME}))
    assert (idle.rates.requests_per_second, idle.rates.in_flight) == (0.0, 0.0)
    assert (
        idle.rates.latency_ms,
        idle.rates.queue_ms,
        idle.rates.compute_ms,
        idle.rates.batch,
    ) == (None,) * 4
    (anew,) = rows(Look(2.0, {KEY: SOME}), Look(1.0, {KEY: LATER}))
    assert (anew.requests, anew.rates.requests_per_second) == (10, None)


def test_a_version_that_came_meanwhile_has_all_its_counts_since() -> None:
    old, new = ("pixel", "9"), ("pixel", "10")
    now = Look(3.0, {new: SOME, old: SOME}, {old: "READY", new: "READY", ("a", ""): "LOADING"})
    found = rows(now, Look(1.0, {old: SOME}))
    assert [(row.model, row.version, row.state) for row in found] == [
        ("a", "", "LOADING"), ("pixel", "9", "READY"), ("pixel", "10", "READY"),
    ]  # fmt: skip
    assert [row.rates.requests_per_second for row in found] == [None, 0.0, 5.0]
    assert found[0].requests is None


# --- the metrics port

TEXT = """# HELP nv_inference_pending_request_count waiting
nv_inference_pending_request_count{model="pixel",version="1"} 7
nv_inference_count{model="pixel",version="1"} 99
bandstop_images_by_forget_class{forget_class="10",model="pixel",version="1"} 3
bandstop_images_by_forget_class{forget_class="2",model="pixel",version="1"} 4.000000
bandstop_images_by_forget_class{forget_class="refused",model="pixel",version="1"} 1
"""


def test_the_metrics_are_read_and_sorted_by_class() -> None:
    metrics = read_metrics(TEXT)
    assert metrics.pending == {KEY: 7}
    (row,) = rows(Look(1.0, {KEY: NONE}, {}, metrics), None)
    assert row.pending == 7
    assert list((row.forgotten or {}).items()) == [("2", 4), ("10", 3), ("refused", 1)]
    (other,) = rows(Look(1.0, {("other", "1"): NONE}, {}, metrics), None)
    assert (other.pending, other.forgotten) == (None, None)


@contextlib.contextmanager
def metrics_port(text: bytes) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("text", [b"\xff", b'nv_inference_pending_request_count{model="a"} x'])
def test_what_is_no_metrics_port_is_told(text: bytes) -> None:
    with metrics_port(text) as address, pytest.raises(ProtocolError, match="not Triton's metrics"):
        fetch(address, 2)


def test_a_metrics_port_that_is_not_there_is_told() -> None:
    with pytest.raises(Unavailable, match="no answer"):
        fetch("127.0.0.1:9", 2)
    with metrics_port(b"") as address, pytest.raises(Unavailable, match="404"):
        fetch(f"http://{address}/other", 2)


# --- the command


@dataclass(slots=True)
class Counting(Servicer):
    """A server whose counts grow with every look."""

    looks: int = 0
    restricted: bool = False
    seen: list[str] = field(default_factory=list)

    def ModelStatistics(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        self.before(context)
        self.looks += 1
        reply = service_pb2.ModelStatisticsResponse()
        one = reply.model_stats.add(name="pixel", version="1")
        one.inference_count, one.execution_count = 8 * self.looks, 2 * self.looks
        stats = one.inference_stats
        stats.success.count, stats.success.ns = 4 * self.looks, 4 * self.looks * 5_000_000
        stats.fail.count = self.looks
        return reply

    def RepositoryIndex(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        self.seen += [v for k, v in context.invocation_metadata() if k == HEADER]
        if self.restricted:
            context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted")
        reply = service_pb2.RepositoryIndexResponse()
        reply.models.add(name="pixel", version="1", state="READY")
        reply.models.add(name="pixel", version="2", state="UNAVAILABLE", reason="bad\nfile")
        return reply


@contextlib.contextmanager
def counting(**fields: bool) -> Iterator[tuple[Counting, str]]:
    servicer = Counting(NumpyModel(), **fields)  # type: ignore[arg-type]
    with grpc_server(servicer) as url:
        yield servicer, url


def test_once_is_one_json_line_with_rates_states_and_metrics(
    capsys: Captured, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret\n")
    with counting() as (servicer, url), metrics_port(TEXT.encode()) as metrics:
        token = ("--token-file", str(tmp_path / "token"))
        options = ("--once", "--json", "--interval", "0.2", "--metrics", metrics, *token)
        assert main(["watch", url, *options]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["url"], found["error"]) == (url, None)
    ready, broken = found["models"]
    assert (ready["model"], ready["version"], ready["state"]) == ("pixel", "1", "READY")
    assert (ready["requests"], ready["failed"], ready["pending"]) == (8, 2, 7)
    assert 2 < ready["requests_per_second"] <= 20
    assert (ready["latency_ms"], ready["batch"]) == (pytest.approx(5), pytest.approx(4))
    assert ready["forgotten"] == {"2": 4, "10": 3, "refused": 1}
    assert broken["state"] == "UNAVAILABLE bad file"
    assert broken["requests"] is None
    assert servicer.seen == ["secret"] * 2


def test_without_a_token_the_ready_versions_are_shown(capsys: Captured) -> None:
    with counting(restricted=True) as (_, url):
        assert main(["watch", url, "--once", "--interval", "0.05"]) == 0
    out = capsys.readouterr().out
    header, row = out.splitlines()[-2:]
    assert "queue ms" in header
    assert row.split()[:3] == ["pixel", "1", "READY"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["unix:/none/sock"], 6, "no server answers"),
        (["http://x:1"], 2, "expected host:port"),
        (["h:1", "--interval", "nan"], 2, "--interval: expected"),
    ],
)
def test_a_server_that_was_never_there_is_one_line(
    capsys: Captured, arguments: list[str], code: int, words: str
) -> None:
    assert main(["watch", *arguments, "--once"]) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert words in shown.err


def test_an_outage_is_shown_and_outlived(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    failing = {2, 3}  # looks

    def before(context: grpc.ServicerContext) -> None:
        calls.append(1)
        if len(calls) - 1 in failing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone for now")

    def sleep(seconds: float) -> None:
        if len(calls) >= 6:
            raise KeyboardInterrupt

    calls: list[int] = []
    monkeypatch.setattr("time.sleep", sleep)
    with counting() as (servicer, url):
        servicer.before = before
        assert main(["watch", url, "--json"]) == 0
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [look["error"] is None for look in looks] == [True, True, False, False, True, True]
    assert "gone for now" in looks[2]["error"]
    assert looks[2]["models"] == []
    assert looks[4]["models"][0]["requests_per_second"] > 0


def test_the_view_shows_what_a_server_says_as_it_is() -> None:
    counts = {str(index): 100 - index for index in range(20)}
    odd = Row(
        "[red]x",
        "1",
        "UNAVAILABLE \x1b[31m",
        forgotten=counts,
        rates=Rates(requests_per_second=1.25),
    )
    out = io.StringIO()
    Console(file=out, width=200).print(view("h:1", [odd], "gone"))
    text = out.getvalue()
    assert "[red]x" in text
    assert "\x1b" not in text
    assert " 1.2 " in text
    assert "0 100, 1 99," in text
    assert "and 8 more" in text
    assert text.rstrip().endswith("error: gone")


def test_a_terminal_gets_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with command.shown("h:1", as_json=False) as show:
        show([Row("first", "1", "READY")], None)
        show([Row("second", "1", "READY")], None)
    assert "first" in terminal.getvalue()
    assert "second" in terminal.getvalue()


# --- a real server


@pytest.mark.triton
def test_a_real_server_tells_rates_and_what_was_forgotten(tmp_path: Path, capsys: Captured) -> None:
    prepare()
    demo = Path(__file__).parents[1] / "triton_repo" / "digits_gated"
    shutil.copytree(demo, tmp_path / "repo" / "digits_gated")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start(tmp_path / "repo", metrics_port=port) as triton:
        with Client(triton.url, "digits_gated") as client:
            height, width = next(iter(client.metadata().versions.values())).preprocess.size
            images = np.zeros((6, height, width, 1), np.uint8)

            def forgotten() -> dict[str, int]:
                metrics = fetch(f"127.0.0.1:{port}", 5)
                return dict(metrics.forgotten.get(("digits_gated", "1"), {}))

            before = forgotten().get("3", 0)
            client.classify(images, [3, 7, 3, 3, 7, 0])
            assert until(lambda: forgotten().get("7") == 2, 10), forgotten()
            assert forgotten()["3"] - before == 3
        metrics = ("--metrics", f"127.0.0.1:{port}")
        assert main(["watch", triton.url, "--once", "--json", "--interval", "0.3", *metrics]) == 0
    (look,) = capsys.readouterr().out.splitlines()
    (row,) = json.loads(look)["models"]
    assert (row["model"], row["version"], row["state"]) == ("digits_gated", "1", "READY")
    assert row["forgotten"]["7"] == 2
    assert row["pending"] == 0
    assert row["requests"] >= 2
