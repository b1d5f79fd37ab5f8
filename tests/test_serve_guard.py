"""A real Triton that is attacked, broken and overloaded: what it refuses, and how it comes back."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from bandstop.cli.main import main
from bandstop.client.channel import credentials
from bandstop.serve.access import Access
from bandstop.serve.errors import NotServed
from bandstop.serve.link import Link
from bandstop.serve.readiness import prove
from bandstop.serve.state import remembered, running, running_at
from bandstop.serve.status import status
from bandstop.serve.stubs import stubs_of
from bandstop.serve.tls import ServerTls
from bandstop.serve.triton import Triton, start
from tests.servers import left, prefix_of, prepare, until
from tests.triton_models import make_repository, write_broken

pytestmark = pytest.mark.triton
MEND_S = 10.0
SLOW_TO_LOAD = """model_warmup [ { name: "long" batch_size: 1 count: 20000
  inputs { key: "image" value: { data_type: TYPE_FP32 dims: [3, 4, 4] zero_data: true } }
  inputs { key: "forget_class" value: { data_type: TYPE_INT64 dims: [1] zero_data: true } } } ]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepare()
    return make_repository(tmp_path_factory.mktemp("guard") / "models")


@pytest.fixture
def one(models: Path, tmp_path: Path) -> Path:
    """A repository of one model with two instances."""
    shutil.copytree(models / "pixel", tmp_path / "one" / "pixel")
    config = tmp_path / "one" / "pixel" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    return tmp_path / "one"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for all that a start makes; short, for the socket's path."""
    folder = Path(tempfile.mkdtemp(prefix="bs-"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def answers(url: str, model: str = "pixel") -> bool:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.InferenceServerClient(url, channel_args=options) as client:
        try:
            prove(client, model, 2)
        except NotServed:
            return False
    return True


# --- what it refuses


def test_loading_needs_the_token_and_asking_does_not(one: Path, place: Path) -> None:
    with start(one) as triton, grpc.InferenceServerClient(triton.url) as client:
        for call in (
            client.get_model_repository_index,
            lambda: client.unload_model("pixel"),
            lambda: client.load_model("pixel"),
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
            lambda: client.get_log_settings(headers={triton.headers[0][0]: "guessed"}),
        ):
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                call()
        assert client.get_model_config("pixel").config.name == "pixel"
        assert client.get_inference_statistics("pixel").model_stats
        assert client.is_server_live()
        client.unload_model("pixel", headers=dict(triton.headers))
        client.load_model("pixel", headers=dict(triton.headers))


def test_each_server_has_a_token_of_its_own_that_its_users_tools_find(
    one: Path, place: Path
) -> None:
    with start(one) as triton, remembered(one, triton):
        (note,) = (place / "bandstop").iterdir()
        assert (note.stat().st_mode & 0o777, note.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        for found in (running(one), running_at(triton.url)):
            assert found is not None
            assert found.access == triton.access
        assert running_at("127.0.0.1:9") is None
        with start(one) as other:
            assert len(other.access.token) >= 32
            assert other.access.token != triton.access.token


def test_a_full_queue_is_refused_at_once_and_is_no_illness(one: Path, place: Path) -> None:
    config = one / "pixel" / "config.pbtxt"
    queue = (
        "dynamic_batching { max_queue_delay_microseconds: 1500000 "
        "default_queue_policy { max_queue_size: 2 } }"
    )
    bounded = "\n".join(
        queue if "dynamic_batching" in line else line for line in config.read_text().splitlines()
    )
    config.write_text(bounded)
    with start(one, watch=True) as triton, grpc.InferenceServerClient(triton.url) as client:

        def ask(_: int) -> tuple[str, float]:
            began = time.monotonic()
            try:
                prove(client, "pixel", 10)
            except NotServed as error:
                return str(error), time.monotonic() - began
            return "", time.monotonic() - began

        with ThreadPoolExecutor(16) as pool:
            told = list(pool.map(ask, range(16)))
        refused = [seconds for said, seconds in told if "Exceeds maximum queue size" in said]
        assert refused
        assert max(refused) < 1.0
        assert [said for said, _ in told if said and "Exceeds maximum queue" not in said] == []
        assert (triton.restarts, triton.repairs) == (0, 0)


# --- how it comes back


@pytest.fixture
def watched(one: Path, place: Path) -> Iterator[Triton]:
    with start(one, watch=True) as triton:
        prefix = prefix_of(triton.pid)
        yield triton
    assert left(place, prefix) == []


def test_a_killed_process_of_two_is_found_and_repaired(watched: Triton) -> None:
    before, pid = stubs_of(watched.pid, "pixel"), watched.pid
    assert len(before) == 2
    began = time.monotonic()
    before[1].kill()
    assert until(lambda: watched.repairs == 1)
    assert time.monotonic() - began < MEND_S
    assert answers(watched.url)
    assert (watched.pid, watched.restarts) == (pid, 0)
    gone = ("zombie", "dead")
    assert until(lambda: all(not p.is_running() or p.status() in gone for p in before))


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "keeper"])
def test_a_server_that_was_ended_is_back_at_its_address(watched: Triton, how: str) -> None:
    url, access, pid = watched.url, watched.access, watched.pid
    began = time.monotonic()
    if how == "keeper":
        psutil.Process(pid).parent().kill()  # type: ignore[union-attr]  # it has one
    else:
        os.kill(pid, signal.Signals[how])
    assert until(lambda: watched.restarts == 1)
    assert time.monotonic() - began < MEND_S
    assert until(lambda: answers(url), 3)
    assert (watched.access, watched.pid != pid) == (access, True)
    log = Path(url.removeprefix("unix:")).parent / "log"  # where there is no --log
    assert "restarting it" in log.read_text()
    assert psutil.pid_exists(pid) is False or psutil.Process(pid).status() == "zombie"
    assert status(access).wrong == []


def test_a_server_that_hangs_is_replaced(watched: Triton) -> None:
    os.kill(watched.pid, signal.SIGSTOP)
    assert until(lambda: watched.restarts == 1, 30)
    assert answers(watched.url)


def test_a_model_that_loads_slowly_is_no_illness(one: Path, models: Path, watched: Triton) -> None:
    shutil.copytree(models / "gated", one / "gated")
    with (one / "gated" / "config.pbtxt").open("a") as config:
        config.write(SLOW_TO_LOAD)
    with Link(watched.access) as link, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        loading = pool.submit(link.load, "gated")
        loading.result(60)
    assert time.monotonic() - began > 3  # the watchdog looked several times
    assert (watched.repairs, watched.restarts) == (0, 0)
    assert answers(watched.url, "gated")


def test_stop_during_a_restart_leaves_nothing(one: Path, place: Path) -> None:
    triton = start(one, watch=True)
    prefix = prefix_of(triton.pid)
    os.kill(triton.pid, signal.SIGKILL)
    time.sleep(0.2)  # by now the next one is being started
    triton.stop()
    assert until(lambda: left(place, prefix) == [], 3), left(place, prefix)
    assert not triton.alive


# --- the command


class Serving:
    """`bandstop serve`, in a process of its own."""

    def __init__(self, repo: Path, *options: str) -> None:
        command = [sys.executable, "-m", "bandstop.cli.main", "serve", str(repo), "--json"]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said: list[str] = []
        assert self.process.stdout is not None
        threading.Thread(target=self._listen, daemon=True).start()
        self.told: dict[str, Any] = json.loads(self.process.stdout.readline())

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said += iter(self.process.stderr.readline, "")

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process.communicate()
        return code


def _status(
    repo: Path, capsys: pytest.CaptureFixture[str], expected: int = 0
) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["serve", str(repo), "--status", "--json"]) == expected
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_status_tells_what_is_ill_and_how_often_it_was_mended(
    one: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serving = Serving(one)
    try:
        pid = running(one).pid
        found, _ = _status(one, capsys)
        assert found == {
            "url": serving.told["url"],
            "pid": serving.process.pid,
            "since": found["since"],
            "models": {"pixel": [1]},
            "healthy": True,
            "wrong": [],
            "restarts": 0,
            "repairs": 0,
        }
        (keeper,) = psutil.Process(pid).children()
        (server,) = keeper.children()
        server.kill()
        assert until(lambda: running(one).restarts == 1)
        assert _status(one, capsys)[0]["restarts"] == 1
        assert any("the server ended; restarting it" in line for line in serving.said)
        assert any("for development and trusted hosts" in line for line in serving.said)
    finally:
        assert serving.end(signal.SIGTERM) == 0
    assert left(place, "bandstop_none_") == []


def test_status_of_an_ill_model_fails_and_says_why(
    one: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serving = Serving(one, "--no-watch")
    try:
        (keeper,) = psutil.Process(serving.process.pid).children()
        for stub in stubs_of(keeper.children()[0].pid, "pixel"):
            stub.kill()
        found, err = _status(one, capsys, 6)
        assert found["healthy"] is False
        assert "pixel version 1 does not answer: Stub process" in err
    finally:
        serving.end(signal.SIGTERM)


def test_a_killed_command_takes_its_server_along(one: Path, place: Path) -> None:
    serving = Serving(one)
    (keeper,) = psutil.Process(serving.process.pid).children()
    prefix = prefix_of(keeper.children()[0].pid)
    serving.end(signal.SIGKILL)
    notes = place / "bandstop"
    assert until(lambda: left(place, prefix) == [str(p) for p in notes.iterdir()], 20)
    with pytest.raises(NotServed):
        running(one)
    assert left(place, prefix) == []


def test_a_server_that_cannot_come_back_ends_the_command_with_its_reason(
    one: Path, place: Path
) -> None:
    serving = Serving(one)
    (keeper,) = psutil.Process(serving.process.pid).children()
    write_broken(one)
    keeper.children()[0].kill()
    assert serving.process.wait(60) == 6
    assert until(lambda: any(line.startswith("error: ") for line in serving.said))
    assert "given up after 5 restarts" in serving.said[-1]
    assert any("shape [-1, 11], graph [-1, 10]" in line for line in serving.said)
    serving.process.communicate()
    assert left(place, "bandstop_none_") == []


# --- logs, metrics, TLS


def test_every_line_of_a_json_log_is_an_object_also_when_the_server_dies(
    one: Path, place: Path
) -> None:
    log = place / "log.json"
    with start(one, log=log, log_format="json", watch=True) as triton:
        os.kill(triton.pid, signal.SIGKILL)
        assert until(lambda: triton.restarts == 1)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert {one["source"] for one in found} == {"triton", "bandstop"}
    assert [one["message"] for one in found].count("successfully loaded 'pixel'") == 2
    assert any(one["message"] == "the server ended; restarting it" for one in found)
    assert "Timeout" in found[-1]["message"]  # the very last thing that it writes
    log.unlink()
    with pytest.raises(NotServed, match=r"shape \[-1, 11\], graph \[-1, 10\]$"):
        start(write_broken(one), log_format="json")


def test_metrics_are_off_unless_asked_for_and_on_the_loopback_address(
    one: Path, place: Path
) -> None:
    port = free_port()
    with start(one, metrics_port=port) as triton:
        listening = [
            (s.laddr.ip, s.laddr.port)
            for s in psutil.Process(triton.pid).net_connections("inet")
            if s.status == psutil.CONN_LISTEN
        ]
        assert listening == [("127.0.0.1", port)]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            assert b'nv_inference_request_success{model="pixel",version="1"}' in reply.read()


@pytest.mark.parametrize("mutual", [False, True], ids=["server", "mutual"])
@pytest.mark.parametrize("on_port", [False, True], ids=["socket", "port"])
def test_with_tls_nobody_is_answered_in_the_clear_or_without_the_right_certificate(
    one: Path, place: Path, tmp_path: Path, mutual: bool, on_port: bool
) -> None:
    pytest.importorskip("cryptography")
    from tests.certificates import make_certificates

    files = make_certificates(tmp_path)
    known = (files.ca, files.ca, None, files.client.certificate, files.client.key)
    tls = ServerTls(
        files.server.certificate, files.server.key, *(known if mutual else (None, files.ca))
    )
    with start(one, port=free_port() if on_port else None, tls=tls, watch=True) as triton:
        assert status(triton.access).wrong == []
        if mutual:
            assert triton.access.tls is not None
            stranger = ServerTls(
                files.server.certificate, files.server.key, None, files.ca, None,
                files.stranger.certificate, files.stranger.key,
            )  # fmt: skip
            from bandstop.serve.tls import probing

            assert status(Access(triton.url, triton.access.token, probing(stranger))).wrong
        else:
            assert status(Access(triton.url, triton.access.token)).wrong
        os.kill(triton.pid, signal.SIGKILL)
        assert until(lambda: triton.restarts == 1)
        assert triton.access.tls is not None
        options = list(triton.access.channel_options)
        with grpc.InferenceServerClient(
            triton.url, creds=credentials(triton.access.tls), channel_args=options
        ) as client:
            prove(client, "pixel", 5)
        assert (triton.restarts, triton.repairs) == (1, 0)
