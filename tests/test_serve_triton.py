"""A real Triton: what it answers, how it fails, and that it leaves nothing behind."""

import contextlib
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
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil
import pytest
import tritonclient.grpc as grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from bandstop.cli.main import main
from bandstop.serve.errors import NotServed, ServeError
from bandstop.serve.install import installed
from bandstop.serve.triton import Triton, start
from tests.servers import left, prefix_of, prepare, processes, until
from tests.triton_models import make_repository, write_broken

pytestmark = pytest.mark.triton
Feeds = dict[str, NDArray[np.generic]]


@pytest.fixture(scope="module")
def prepared() -> None:
    """The bundled Triton, installed if this machine can run it."""
    prepare()


@pytest.fixture(scope="module")
def repo(prepared: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("serve") / "repo")


@pytest.fixture(scope="module")
def server(repo: Path) -> Iterator[Triton]:
    with start(repo) as triton:
        yield triton


@pytest.fixture
def client(server: Triton) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.url) as client:
        yield client


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for all that a start makes; short, for the socket's path."""
    folder = Path(tempfile.mkdtemp(prefix="bs-"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def one(repo: Path, tmp_path: Path) -> Path:
    """A repository of a single model, which starts in no time."""
    shutil.copytree(repo / "pixel", tmp_path / "one" / "pixel")
    return tmp_path / "one"


@pytest.fixture
def clean(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Check that the test's servers leave no process, no shared memory and no file."""
    fresh, made = uuid.uuid4, []

    def remembering() -> uuid.UUID:
        made.append(fresh())
        return made[-1]

    monkeypatch.setattr(uuid, "uuid4", remembering)
    yield place

    def found() -> list[str]:
        return [
            x for known in made or [fresh()] for x in left(place, f"bandstop_{known.hex[:12]}_")
        ]

    # Ctrl-C may come before we know the keeper, which then ends a moment later by itself
    assert until(lambda: not found(), 2), found()


# --- answers


def _feeds(model: str, rows: int, seed: int = 0) -> Feeds:
    rng = np.random.default_rng(seed)
    feeds: Feeds = {"image": rng.uniform(size=(rows, 3, 4, 4)).astype(np.float32)}
    if model != "pixel":
        feeds["forget_class"] = rng.integers(0, 10, size=(rows, 1))
    return feeds


def _ask(client: grpc.InferenceServerClient, model: str, feeds: Feeds) -> NDArray[np.float32]:
    types = {"image": "FP32", "forget_class": "INT64"}
    inputs = [
        grpc.InferInput(name, list(value.shape), types[name]).set_data_from_numpy(value)
        for name, value in feeds.items()
    ]
    logits: NDArray[np.float32] = client.infer(model, inputs, client_timeout=20).as_numpy("logits")
    return logits


def _expected(repo: Path, model: str, feeds: Feeds) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    file = repo / model / "1" / "model.onnx"
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    ranks = {t.name: len(t.shape) for t in session.get_inputs()}
    logits: NDArray[np.float32] = session.run(
        ["logits"], {k: v.reshape(v.shape[: ranks[k]]) for k, v in feeds.items()}
    )[0]
    return logits


def _executions(client: grpc.InferenceServerClient, model: str) -> int:
    (stats,) = client.get_inference_statistics(model, client_timeout=10).model_stats
    return int(stats.execution_count)


def test_the_server_tells_what_it_is(server: Triton) -> None:
    assert server.alive
    assert server.models == ["flat", "gated", "pixel", "raises"]
    assert server.version.split(".")[0] == "2"


@pytest.mark.parametrize("model", ["pixel", "gated", "flat", "raises"])
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_an_answer_is_that_of_onnxruntime_to_the_bit(
    client: grpc.InferenceServerClient, repo: Path, model: str, rows: int
) -> None:
    feeds = _feeds(model, rows)
    answer = _ask(client, model, feeds)
    assert answer.shape == (rows, 10)
    np.testing.assert_array_equal(answer, _expected(repo, model, feeds))


@pytest.mark.parametrize("model", ["pixel", "gated", "flat"])
def test_32_requests_at_once_share_batches_and_get_their_own_answers(
    client: grpc.InferenceServerClient, repo: Path, model: str
) -> None:
    asked = [_feeds(model, 1, seed) for seed in range(32)]
    before = _executions(client, model)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(partial(_ask, client, model), asked))
    assert _executions(client, model) - before < 32
    for feeds, answer in zip(asked, answers, strict=True):
        # a row of a batch may be summed in another order than a row alone
        np.testing.assert_allclose(answer, _expected(repo, model, feeds), rtol=1e-5, atol=1e-6)


def test_one_poisoned_request_fails_alone_in_its_batch(
    client: grpc.InferenceServerClient, repo: Path
) -> None:
    asked = [_feeds("raises", 1, seed) for seed in range(24)]
    asked[11]["forget_class"] = np.array([[10]])

    def ask(feeds: Feeds) -> NDArray[np.float32] | InferenceServerException:
        try:
            return _ask(client, "raises", feeds)
        except InferenceServerException as error:
            return error

    before = _executions(client, "raises")
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, asked))
    assert _executions(client, "raises") - before < 24
    failed = [i for i, a in enumerate(answers) if isinstance(a, InferenceServerException)]
    assert failed == [11]
    assert isinstance(answers[11], InferenceServerException)
    assert answers[11].status() == "StatusCode.INTERNAL"
    for feeds, answer in zip(asked[12:], answers[12:], strict=True):
        assert not isinstance(answer, InferenceServerException)
        np.testing.assert_allclose(answer, _expected(repo, "raises", feeds), rtol=1e-5, atol=1e-6)


def test_a_guarded_graph_refuses_rows_and_not_requests(
    client: grpc.InferenceServerClient, repo: Path
) -> None:
    feeds = _feeds("gated", 4)
    feeds["forget_class"] = np.array([[3], [10], [-1], [2**62]])
    answer = _ask(client, "gated", feeds)
    assert np.isnan(answer).all(axis=1).tolist() == [False, True, True, True]


# --- what it opens


def _listening(pid: int) -> list[tuple[str, int]]:
    sockets = psutil.Process(pid).net_connections("inet")
    return [
        (s.laddr.ip.removeprefix("::ffff:"), s.laddr.port)
        for s in sockets
        if s.status == psutil.CONN_LISTEN
    ]


def test_a_socket_is_for_this_user_alone_and_no_port_is_open(server: Triton) -> None:
    file = Path(server.url.removeprefix("unix:"))
    assert file.is_socket()
    assert (file.stat().st_mode & 0o077, file.parent.stat().st_mode & 0o077) == (0, 0)
    assert _listening(server.pid) == []


def test_a_port_is_open_on_the_loopback_address_alone(one: Path, clean: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start(one, port=port) as triton:
        assert triton.url == f"127.0.0.1:{port}"
        assert _listening(triton.pid) == [("127.0.0.1", port)]
        with pytest.raises(ServeError, match=f"port {port} on 127.0.0.1 is in use"):
            start(one, port=port)
        assert triton.alive


def test_a_folder_for_the_socket_is_kept_and_the_socket_is_not(one: Path, clean: Path) -> None:
    folder, log = clean / "sockets", clean / "log"
    folder.mkdir()
    with start(one, socket_dir=folder, log=log) as triton:
        assert triton.url == f"unix:{folder}/s:1"
        with pytest.raises(ServeError, match="listens in"):
            start(one, socket_dir=folder)
    assert list(folder.iterdir()) == []
    assert "Started GRPCInferenceService" in log.read_text()
    folder.rmdir()
    log.unlink()


# --- the end


def test_stop_leaves_nothing(one: Path, clean: Path) -> None:
    triton = start(one)
    prefix = prefix_of(triton.pid)
    assert processes(clean)
    assert list(Path("/dev/shm").glob(f"{prefix}*"))
    assert [p.name for p in clean.glob("*/s:1")] == ["s:1"]
    triton.stop()
    assert not triton.alive
    assert left(clean, prefix) == []
    triton.stop()  # once more does no harm


def test_a_server_that_dies_is_noticed_and_leaves_nothing(one: Path, clean: Path) -> None:
    folder = clean / "sockets"
    folder.mkdir()
    with start(one, socket_dir=folder) as triton:
        os.kill(triton.pid, signal.SIGKILL)
        triton.wait()
        assert not triton.alive
    folder.rmdir()  # it is empty


def test_a_server_whose_keeper_is_killed_ends(one: Path, place: Path) -> None:
    with start(one) as triton:
        prefix = prefix_of(triton.pid)
        psutil.Process(triton.pid).parent().kill()  # type: ignore[union-attr]  # it has one
        triton.wait()
        assert until(lambda: not psutil.pid_exists(triton.pid))
    assert until(lambda: not processes(place))
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


PARENT = """
import sys, time
from pathlib import Path
from bandstop.serve.triton import start
print(start(Path(sys.argv[1])).pid, flush=True)
time.sleep(60)
"""


def test_a_server_whose_parent_is_killed_ends_and_leaves_nothing(one: Path, place: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(one)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    prefix = prefix_of(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    assert until(lambda: not left(place, prefix)), left(place, prefix)


FORKING = """
import os, sys, time
from pathlib import Path
from bandstop.serve.triton import start
triton = start(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    os.closerange(0, 3)
    time.sleep(60)
    os._exit(0)
print(triton.pid, child, flush=True)
sys.stdin.read()
triton.stop()
"""


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_ends_though_a_process_that_its_parent_forked_lives_on(
    one: Path, place: Path, end: str
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(one)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    server, child = map(int, parent.stdout.readline().split())
    prefix = prefix_of(server)
    try:
        if end == "kill":
            parent.kill()
        parent.communicate(timeout=20)  # tells it to stop
        assert until(lambda: not psutil.pid_exists(server))
        assert psutil.pid_exists(child)
    finally:
        os.kill(child, signal.SIGKILL)
    assert until(lambda: not left(place, prefix)), left(place, prefix)


# --- a start that fails


def test_a_model_that_does_not_load_is_told_in_tritons_own_words(one: Path, clean: Path) -> None:
    with pytest.raises(NotServed) as error:
        start(write_broken(one))
    assert str(error.value) == (
        "the server ended before it was ready: failed to load 'broken' version 1: Internal: "
        "TritonModelException: config.pbtxt does not fit the graph: "
        "output logits: shape [-1, 11], graph [-1, 10]"
    )
    assert error.value.exit_code == 6


# a client of tritonclient that was interrupted while it was being made complains when it is removed
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*InferenceServerClient:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.25])
def test_ctrl_c_during_a_start_leaves_nothing(repo: Path, clean: Path, seconds: float) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt), start(repo) as triton:
            triton.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- the command


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["serve", *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "--stop"])
def test_the_command_serves_until_it_is_told_to_stop(
    one: Path, place: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    command = [sys.executable, "-m", "bandstop.cli.main", "serve", str(one), "--json"]
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        told = json.loads(serving.stdout.readline())
        assert told["models"] == ["pixel"]
        assert until(lambda: main(["serve", str(one), "--status"]) == 0, 2)
        capsys.readouterr()
        with grpc.InferenceServerClient(told["url"]) as client:
            assert _ask(client, "pixel", _feeds("pixel", 2)).shape == (2, 10)
        status = _json(capsys, str(one), "--status")
        known = {"url": told["url"], "pid": serving.pid}
        assert status.items() >= (known | {"models": {"pixel": [1]}, "healthy": True}).items()
        if how == "--stop":
            reaper = threading.Thread(target=serving.wait)  # a zombie has not gone
            reaper.start()
            assert _json(capsys, str(one), "--stop") == known | {"stopped": True}
            reaper.join()
        else:
            serving.send_signal(signal.Signals[how])
        errors = serving.communicate(timeout=20)[1]
    finally:
        serving.kill()
        serving.communicate()
    assert serving.returncode == 0, errors
    assert errors.splitlines()[-1] == "stopped"
    assert processes(place) == []
    assert [p for p in place.rglob("*") if p != place / "bandstop"] == []
    assert main(["serve", str(one), "--status"]) == 6
    assert capsys.readouterr().err == f"error: nothing serves {one}\n"


@pytest.mark.parametrize(
    ("kind", "code", "expected"),
    [
        ("port in use", 1, "is in use; choose another"),
        ("no program", 1, "is not a program; unset or mend it"),
        ("no repository", 2, "is missing; expected a folder with models"),
        ("code in it", 5, "model.py would be executed"),
        ("broken", 6, "shape [-1, 11], graph [-1, 10]"),
    ],
)
def test_the_command_tells_a_failure_in_one_line(
    one: Path,
    clean: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    code: int,
    expected: str,
) -> None:
    arguments = [str(one)]
    with contextlib.ExitStack() as stack:
        if kind == "port in use":
            other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            arguments += ["--port", str(other.getsockname()[1])]
        elif kind == "no program":
            monkeypatch.setenv("TRITONSERVER", "/nowhere/tritonserver")
        elif kind == "no repository":
            arguments = [str(one / "none")]
        elif kind == "code in it":
            (one / "pixel" / "1" / "model.py").write_text("")
        else:
            write_broken(one)
        assert main(["serve", *arguments]) == code
    *remarks, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not any(remark.startswith("error") for remark in remarks)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_install_is_instant_when_it_is_installed(
    prepared: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if installed() is None:
        pytest.skip("this machine's own tritonserver is used, nothing is installed")
    began = time.monotonic()
    assert Path(_json(capsys, "--install")["triton"]).is_dir()
    assert time.monotonic() - began < 2
