"""What surrounds the server, without one: machine, command, repository, notes, installation."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tritonclient.grpc import InferInput

from bandstop.serve import install as installation
from bandstop.serve import keeper, state
from bandstop.serve.access import Access
from bandstop.serve.address import LOOPBACK, Address, address_of
from bandstop.serve.command import Server, command_line, environment, find_server
from bandstop.serve.errors import (
    MachineError,
    NotServed,
    ServeError,
    ServeInputError,
    UnsafeRepository,
)
from bandstop.serve.install import Installed, install, installed, refresh_backend
from bandstop.serve.kept import Kept
from bandstop.serve.log import Log
from bandstop.serve.machine import Facts, check_machine, home
from bandstop.serve.plan import Plan
from bandstop.serve.readiness import prove, reason_in_log
from bandstop.serve.repository import check_repository
from bandstop.serve.state import remembered, running, stop
from bandstop.serve.triton import Triton, start

GOOD = Facts("Linux", "x86_64", (2, 36), (3, 11), Path("/usr/lib"), venv=True)
CONFIG = 'backend: "onnxruntime"\nmax_batch_size: 8\n'


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="bs-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "digits" / "1").mkdir(parents=True)
    (root / "digits" / "1" / "model.onnx").write_bytes(b"x")
    (root / "digits" / "config.pbtxt").write_text(CONFIG)
    return root


# --- the machine


@pytest.mark.parametrize(
    ("facts", "missing", "mend"),
    [
        (replace(GOOD, system="Darwin"), "Darwin on x86_64", "container"),
        (replace(GOOD, processor="aarch64"), "Linux on aarch64", "container"),
        (replace(GOOD, glibc=(2, 31)), "has 2.31", "Debian 12"),
        (replace(GOOD, glibc=(0, 0)), "glibc 2.35 or newer", "Ubuntu 22.04"),
        (replace(GOOD, python=(3, 14)), "no stub for Python 3.14", "use 3.11 or 3.12"),
        (replace(GOOD, libpython=None), "libpython3.11.so.1.0", "apt install libpython3.11"),
        (replace(GOOD, venv=False), "cannot make environments", "apt install python3.11-venv"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_machine_that_lacks_something_is_told_what_and_how_to_mend_it(
    facts: Facts, missing: str, mend: str
) -> None:
    with pytest.raises(MachineError) as error:
        check_machine(facts)
    assert missing in str(error.value)
    assert mend in str(error.value)


def test_a_machine_is_told_all_that_it_lacks_in_one_line() -> None:
    with pytest.raises(MachineError) as error:
        check_machine(Facts("Linux", "x86_64", (2, 17), (3, 7), None, venv=False))
    text = str(error.value)
    assert all(part in text for part in ("2.17", "Python 3.7", "libpython3.7.so", "python3.7-venv"))
    assert "\n" not in text
    assert error.value.exit_code == 1


def test_a_fitting_machine_passes() -> None:
    check_machine(GOOD)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BANDSTOP_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/bandstop"),
        ({"HOME": "/u"}, "/u/.cache/bandstop"),
    ],
)
def test_home_is_named_else_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("BANDSTOP_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert home() == Path(expected)


# --- command line, environment, address


def test_the_server_listens_for_grpc_alone_and_completes_nothing() -> None:
    server = Server(Path("/t/tritonserver"), Path("/t/backends"), {})
    line = command_line(server, Path("/repo"), Address(LOOPBACK, 8001), "own_")
    assert line[0] == "/t/tritonserver"
    assert set(line) >= {
        "--model-repository=/repo",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        "--grpc-port=8001",
        "--backend-directory=/t/backends",
        "--backend-config=python,shm-region-prefix-name=own_",
    }


def test_a_server_of_the_host_keeps_its_own_backends() -> None:
    line = command_line(Server(Path("/t"), None, {}), Path("/r"), Address(LOOPBACK, 1), "p")
    assert not [argument for argument in line if argument.startswith("--backend-directory")]


def test_the_environment_is_ours_without_what_leads_python_astray() -> None:
    ours = {
        "LANG": "C",
        "PATH": "/bin",
        "PYTHONHOME": "/x",
        "PYTHONPATH": "/y",
        "PYTHONWARNINGS": "error",
        "VIRTUAL_ENV": "/z",
    }
    server = Server(Path("/t"), None, {"PATH": "/venv/bin:/bin", "PYTHONNOUSERSITE": "1"})
    assert environment(server, ours) == {
        "LANG": "C",
        "ORT_DISABLE_TELEMETRY": "1",
        "PATH": "/venv/bin:/bin",
        "PYTHONNOUSERSITE": "1",
    }
    assert environment(server, {"ORT_DISABLE_TELEMETRY": "0"})["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """A prepared environment, with nothing in it that runs."""
    monkeypatch.setenv("BANDSTOP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/nothing/bin")
    monkeypatch.delenv("TRITONSERVER", raising=False)
    place = Installed(tmp_path / "home" / f"triton-{installation.PYTRITON}-py{_python()}")
    (place.backends / "onnxruntime").mkdir(parents=True)
    (place.folder / "ready.json").write_text("{}")
    return place


def _python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_the_bundled_server_runs_in_its_own_environment(bundled: Installed) -> None:
    server = find_server()
    assert server.binary == bundled.tritonserver
    assert server.backends == bundled.backends
    venv = bundled.folder / "venv"
    assert server.environment["PATH"].split(":") == [str(venv / "bin"), "/nothing/bin"]
    assert server.environment["LD_LIBRARY_PATH"].endswith(
        str(bundled.site / "nvidia_pytriton.libs")
    )


def test_the_bundled_server_gets_the_backend_of_this_release(bundled: Installed) -> None:
    target = bundled.backends / "onnxruntime" / "model.py"
    target.write_text("an older one")
    find_server()
    assert target.read_bytes() == installation.OUR_BACKEND.read_bytes()
    before = target.stat().st_mtime_ns
    refresh_backend(bundled)
    assert target.stat().st_mtime_ns == before  # a shared or read-only home is left alone
    assert [p.name for p in target.parent.iterdir()] == ["model.py"]


def test_a_server_that_is_named_or_on_the_path_comes_first(
    bundled: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path, named = tmp_path / "bin" / "tritonserver", tmp_path / "mine"
    on_path.parent.mkdir()
    for file in (on_path, named):
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_server() == Server(on_path, None, {})
    monkeypatch.setenv("TRITONSERVER", str(named))
    assert find_server() == Server(named, None, {})


@pytest.mark.parametrize("kind", ["missing", "a folder", "not executable"])
def test_a_named_server_that_is_no_program_is_refused(
    bundled: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    named = tmp_path / "named"
    if kind == "a folder":
        named.mkdir()
    if kind == "not executable":
        named.write_text("")
    monkeypatch.setenv("TRITONSERVER", str(named))
    with pytest.raises(MachineError, match=f"TRITONSERVER={named} is not a program"):
        find_server()


def test_without_a_server_the_way_to_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANDSTOP_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nothing/bin")
    monkeypatch.delenv("TRITONSERVER", raising=False)
    monkeypatch.setattr("bandstop.serve.command.this_machine", lambda: GOOD)
    with pytest.raises(MachineError, match="bandstop serve --install"):
        find_server()


def test_a_port_is_of_the_loopback_address() -> None:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    address = address_of(port, Path("/unused"))
    assert (address.url, address.socket) == (f"127.0.0.1:{port}", None)


def test_without_a_port_a_socket_lies_in_the_folder(place: Path) -> None:
    address = address_of(None, place)
    assert address.url == f"unix:{place}/s:1"
    assert address.socket == place / "s:1"


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_a_usage_error(port: int) -> None:
    with pytest.raises(ServeInputError, match="expected 1 to 65535") as error:
        address_of(port, Path("/unused"))
    assert error.value.exit_code == 2


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} on 127.0.0.1 is in use") as error:
            address_of(port, Path("/unused"))
    assert error.value.exit_code == 1


def test_a_socket_in_use_is_not_taken_over_and_a_stale_one_is(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place / "s:1"))
        other.listen()
        with pytest.raises(ServeError, match=r"listens in .* already"):
            address_of(None, place)
    assert address_of(None, place).socket == place / "s:1"


def test_a_socket_path_too_long_says_how_to_shorten_it(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(ServeInputError, match=r"too long.*--socket") as error:
        address_of(None, deep)
    assert error.value.exit_code == 2
    with pytest.raises(ServeInputError, match="no such folder"):
        address_of(None, tmp_path / "none")


# --- the repository


def test_a_sound_repository_gives_its_models(repo: Path) -> None:
    shutil.copytree(repo / "digits", repo / "another")
    (repo / "README.md").write_text("files at the top do no harm")
    (repo / "digits" / "labels.txt").write_text("zero")
    (repo / "digits" / ".stage-digits-2").mkdir()  # as publishing leaves one on a mount point
    assert check_repository(repo) == ["another", "digits"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "is missing"),
        ("file", "is a file"),
        ("empty", "holds no model"),
        ("model", "is a model's own folder"),
    ],
)
def test_what_is_no_repository_is_a_usage_error(tmp_path: Path, kind: str, expected: str) -> None:
    root = tmp_path / "repo"
    if kind == "file":
        root.write_text("")
    if kind in ("empty", "model"):
        root.mkdir()
    if kind == "model":
        (root / "config.pbtxt").write_text(CONFIG)
    with pytest.raises(ServeInputError, match=expected) as error:
        check_repository(root)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "file",
    [
        "digits/1/model.py",
        "digits/libtriton_onnxruntime.so",
        "digits/1/libextra.so.1",
        "digits/triton_python_backend_stub",
        "digits/environment.tar.gz",
    ],
)
def test_what_the_server_would_execute_is_refused(repo: Path, file: str) -> None:
    (repo / file).write_bytes(b"")
    with pytest.raises(UnsafeRepository, match=f"{file} would be executed") as error:
        check_repository(repo)
    assert error.value.exit_code == 5


def test_code_behind_a_linked_folder_is_found(repo: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "1").mkdir(parents=True)
    (elsewhere / "1" / "model.py").write_text("")
    for name in ("again", "too"):  # and circles do not hold us up
        (elsewhere / name).symlink_to(repo)
    (repo / "linked").symlink_to(elsewhere)
    with pytest.raises(UnsafeRepository, match=r"linked/1/model\.py would be executed"):
        check_repository(repo)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('backend: "py" "thon"\ndefault_model_filename: "notes.txt"', "backend python would"),
        ('parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/e" } }', "environment"),
        ('model_operations { op_library_filename: "/tmp/ops" }', "would execute a library"),
        ("max_batch_size: {", "cannot be read"),
        ('backend: "../elsewhere"', "lies elsewhere"),
        ('backend: "/tmp/elsewhere"', "lies elsewhere"),
        ('backend: ".."', "lies elsewhere"),
        ('backend: "onnxruntime\\n"', "lies elsewhere"),
    ],
)
def test_a_configuration_that_executes_or_is_unreadable_is_refused(
    repo: Path, config: str, expected: str
) -> None:
    (repo / "digits" / "config.pbtxt").write_text(config)
    with pytest.raises(UnsafeRepository, match=f"digits/config.pbtxt.*{expected}"):
        check_repository(repo)


def test_a_configuration_for_a_newer_server_is_not_refused(repo: Path) -> None:
    (repo / "digits" / "config.pbtxt").write_text(CONFIG + "field_of_tomorrow: 3\n")
    assert check_repository(repo) == ["digits"]


def test_everything_that_stops_the_server_is_told_in_one_line(repo: Path) -> None:
    number = "1" * 20
    for folder in (".staging/1", "__pycache__", "hollow", "digits/2.tmp", f"digits/{number}"):
        (repo / folder).mkdir(parents=True)
    (repo / "gone").symlink_to(repo / "nowhere")
    (repo / "hollow" / "1").write_text("a file is no version")
    (repo / "digits" / "1" / "model.py").write_text("")
    with pytest.raises(UnsafeRepository) as error:
        check_repository(repo)
    text = str(error.value)
    for finding in (
        ".staging/ is taken for a model",
        "__pycache__/ is taken for a model",
        "hollow/ holds no version folder",
        "digits/2.tmp is read as a version number",
        f"digits/{number} is read as a version number",
        "gone is a dangling link",
        "digits/1/model.py would be executed",
    ):
        assert finding in text
    assert "\n" not in text


# --- why a server did not start; the lines are what tritonserver 2.51.0 wrote

INFO, ERROR = "I1121 05:41:51.393675 31682", "E1121 05:41:51.393675 31682"
MISFIT = (
    "Internal: TritonModelException: config.pbtxt does not fit the graph: "
    "output logits: shape [-1, 11], graph [-1, 10]"
)
TRACE = r"\n\nAt:\n  /home/backends/onnxruntime/model.py(63): initialize\n"
FAILED = "error: creating server: Internal - failed to load all models\n"
NAME = (
    "Poll failed for model directory 'tiny': unexpected directory name 'tiny' for model 'other', "
    "directory name must equal model name"
)


def _failed(model: str, reason: str) -> str:
    return f"{ERROR} model_lifecycle.cc:642] \"failed to load '{model}' version 1: {reason}\"\n"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            f'{INFO} model_lifecycle.cc:472] "loading: tiny:1"\n'
            + _failed("tiny", MISFIT + TRACE)
            + f"{INFO} model_lifecycle.cc:777] \"failed to load 'tiny'\"\n{FAILED}",
            f"failed to load 'tiny' version 1: {MISFIT}",
        ),
        (
            _failed("b", MISFIT + TRACE) + _failed("a", 'no "file" here'),
            "failed to load 'a' version 1: no \"file\" here; "
            f"failed to load 'b' version 1: {MISFIT}",
        ),
        (f'{ERROR} model_repository_manager.cc:1460] "{NAME}"\n{FAILED}', NAME),
        (FAILED, FAILED.strip()),
        (f"{INFO} server.cc:604] all is well\n", ""),
        ("", ""),
    ],
    ids=["misfit", "two models", "name", "only the end", "none", "empty"],
)
def test_the_reason_is_what_triton_wrote_in_one_line(log: str, expected: str) -> None:
    assert reason_in_log(log) == expected


class Answering:
    """A server whose one model answers with these bytes."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = contents

    def get_model_metadata(self, model: str, client_timeout: float) -> object:
        return SimpleNamespace(
            inputs=[SimpleNamespace(name="image", shape=[-1, 3], datatype="FP32")]
        )

    def infer(self, model: str, inputs: list[InferInput], client_timeout: float) -> object:
        assert inputs[0].shape() == [1, 3]
        reply = SimpleNamespace(raw_output_contents=self._contents)
        return SimpleNamespace(get_response=lambda: reply)


@pytest.mark.parametrize("contents", [(), (b"",), (b"1234", b"")])
def test_a_model_that_answers_with_empty_tensors_is_not_served(contents: tuple[bytes, ...]) -> None:
    with pytest.raises(NotServed, match="empty tensors: its Python has NumPy 2"):
        prove(Answering(*contents), "digits")
    prove(Answering(b"1234"), "digits")


# --- notes about running servers


@pytest.fixture
def notes(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    return place / "bandstop"


@pytest.fixture
def triton(place: Path) -> Iterator[Triton]:
    """A handle on a process that is no server."""
    process = _process("sleep", "60")
    access = Access("unix:/x/s:1", "secret")
    log = Log.at(place / "log", "text")
    nowhere = place / "none"
    handle = Triton(
        Plan(place, access, [], {}, log, "bandstop_none_", nowhere, nowhere, 1.0), Kept(process)
    )
    yield handle
    process.kill()
    handle.stop()


def _process(*command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_server_is_found_while_it_runs_and_not_after(
    repo: Path, notes: Path, triton: Triton
) -> None:
    with remembered(repo, triton):
        found = running(repo / ".." / repo.name)
        assert (found.url, found.pid) == (triton.url, os.getpid())
        with pytest.raises(NotServed, match="nothing serves"):
            running(repo.parent)
    with pytest.raises(NotServed, match="nothing serves") as error:
        running(repo)
    assert error.value.exit_code == 6
    assert list(notes.iterdir()) == []
    assert notes.stat().st_mode & 0o777 == 0o700


def _note(notes: Path, repo: Path, pid: int, started: int) -> Path:
    notes.mkdir(exist_ok=True)
    file = notes / f"{state._name(repo)}-{pid}.json"
    file.write_text(json.dumps({"url": "u", "pid": pid, "started": started}))
    return file


@pytest.mark.parametrize("shift", [1, None], ids=["a later process has its id", "gone"])
def test_a_note_of_a_process_that_is_gone_is_removed_and_nobody_is_ended(
    repo: Path, notes: Path, shift: int | None
) -> None:
    other = _process("sleep", "60")
    try:
        started = state._started(other.pid)
        pid = other.pid if shift else 2**22 + 1  # above the kernel's largest process id
        file = _note(notes, repo, pid, started - (shift or 0))
        with pytest.raises(NotServed, match="nothing serves"):
            stop(repo)
        assert not file.exists()
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


def test_stop_ends_the_process_that_was_started_last(repo: Path, notes: Path) -> None:
    first = _process("sleep", "60")
    time.sleep(0.05)  # beginnings are told in ticks of 10 ms
    second = _process("sleep", "60")
    reaper = threading.Thread(target=second.wait)
    reaper.start()
    try:
        for process in (first, second):
            _note(notes, repo, process.pid, state._started(process.pid))
        assert stop(repo).pid == second.pid
        assert running(repo).pid == first.pid
    finally:
        for process in (first, second):
            process.kill()
        reaper.join()
        for process in (first, second):
            process.communicate()


def test_a_folder_of_notes_that_is_a_link_is_refused(repo: Path, notes: Path) -> None:
    notes.symlink_to(repo)
    with pytest.raises(NotServed, match="not a folder of this user"):
        running(repo)


# --- installation


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Installation into `tmp_path` whose steps only write down that they were taken."""
    taken: list[str] = []
    monkeypatch.setenv("BANDSTOP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(installation, "this_machine", lambda: GOOD)
    monkeypatch.setattr(installation, "_run", lambda command, what: taken.append(what))
    monkeypatch.setattr(installation, "_lay_out", lambda place: taken.append("lay out"))
    return taken


STEPS = ["make its environment", "install onnxruntime", "install nvidia-pytriton==0.7.0", "lay out"]


def test_an_installation_is_made_once(steps: list[str]) -> None:
    assert installed() is None
    told: list[str] = []
    place = install(told.append)
    assert steps == STEPS
    assert "about 400 MB, once" in told[0]
    assert installed() == place == install()
    assert steps == STEPS


def test_an_interrupted_installation_is_made_again(
    steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(place: Installed) -> None:
        (place.folder / "half").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(installation, "_lay_out", fail)
        with pytest.raises(KeyboardInterrupt):
            install()
    assert installed() is None
    steps.clear()
    place = install()
    assert steps == STEPS
    assert not (place.folder / "half").exists()


def test_two_installations_at_once_wait_for_each_other(
    steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(place: Installed) -> None:
        steps.append("lay out")
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(installation, "_lay_out", slow)
    first, second = (threading.Thread(target=install) for _ in range(2))
    first.start()
    assert begun.wait(10)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    first.join(10)
    second.join(10)
    assert steps == STEPS


def test_a_step_that_fails_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANDSTOP_HOME", str(tmp_path))
    monkeypatch.setattr(installation, "this_machine", lambda: GOOD)
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\necho first >&2; echo ERROR: no >&2; echo such package >&2; exit 3\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(MachineError) as error:
        install()
    assert str(error.value) == "cannot make its environment for Triton: ERROR: no such package"
    assert installed() is None


def test_an_unfit_machine_is_not_installed_on(
    steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "this_machine", lambda: replace(GOOD, libpython=None))
    with pytest.raises(MachineError, match="libpython"):
        install()
    assert steps == []


# --- a start that fails before there is a server


@pytest.fixture
def fake_server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = place / "tritonserver"
    monkeypatch.setenv("TRITONSERVER", str(file))
    monkeypatch.setattr(tempfile, "tempdir", str(place / "tmp"))
    (place / "tmp").mkdir()
    return file


def _program(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def test_a_program_that_does_not_run_is_told_and_leaves_nothing(
    repo: Path, place: Path, fake_server: Path
) -> None:
    _program(fake_server, "#!/no/such/interpreter\n")
    with pytest.raises(MachineError, match=r"cannot start tritonserver: .*No such file"):
        start(repo)
    assert list((place / "tmp").iterdir()) == []


def test_a_log_that_cannot_be_written_is_a_usage_error(
    repo: Path, place: Path, fake_server: Path
) -> None:
    _program(fake_server, "#!/bin/sh\n")
    with pytest.raises(ServeInputError, match="cannot be written: No such file"):
        start(repo, log=place / "none" / "log")
    assert list((place / "tmp").iterdir()) == []


def test_the_reason_is_taken_from_this_start_and_not_from_an_earlier_one(
    repo: Path, place: Path, fake_server: Path
) -> None:
    _program(fake_server, "#!/bin/sh\necho error: out of luck\n")
    log = place / "log"
    log.write_text("failed to load 'yesterday' version 1: long mended\n")
    with pytest.raises(NotServed, match=r"ended before it was ready: error: out of luck$"):
        start(repo, log=log)
    assert log.read_text().startswith("failed to load 'yesterday'")
    assert list((place / "tmp").iterdir()) == []


def test_secrets_of_the_environment_are_on_no_command_line(
    repo: Path, place: Path, fake_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hush-hush")
    lines = place / "lines"
    _program(
        fake_server,
        f'#!/bin/sh\ncat /proc/$PPID/cmdline > {lines}\necho "secret=$A_SECRET" >> {lines}\n',
    )
    with pytest.raises(NotServed):
        start(repo)
    assert lines.read_bytes().count(b"hush-hush") == 1  # the server itself does get it


def test_a_server_that_does_not_listen_is_ended_in_time(
    repo: Path, place: Path, fake_server: Path
) -> None:
    _program(fake_server, f"#!/bin/sh\necho $$ > {place / 'pid'}\nexec sleep 60\n")
    with pytest.raises(NotServed, match=r"not ready within 0\.5 s"):
        start(repo, timeout=0.5)
    assert not Path("/proc", (place / "pid").read_text().strip()).exists()
    assert list((place / "tmp").iterdir()) == []


def test_a_server_of_a_parent_that_died_at_once_is_ended_and_cleared(
    place: Path, fake_server: Path
) -> None:
    _program(fake_server, f"#!/bin/sh\necho $$ > {place / 'pid'}\nexec sleep 60\n")
    (place / "own").mkdir()
    plan = {
        "command": [str(fake_server)],
        "environment": dict(os.environ),
        "log": str(place / "log"),
        "grace_s": 5,
        "shm_prefix": "bandstop_none_",
        "socket": str(place / "own" / "s"),
        "log_writer": None,
        "folder": str(place / "own"),
    }
    process = subprocess.Popen(
        [sys.executable, "-IS", keeper.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()  # nobody will read the process id
    process.stdin.write(json.dumps(plan).encode() + b"\n")
    process.stdin.flush()
    until = time.monotonic() + 10
    while not ((place / "pid").exists() and (place / "pid").read_text()):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.stdin.close()
    assert process.wait(10) == 0
    assert not Path("/proc", (place / "pid").read_text().strip()).exists()
    assert not (place / "own").exists()


def test_a_server_that_was_stopped_is_not_started_again(triton: Triton, place: Path) -> None:
    triton._kept._process.kill()
    triton.stop()
    triton.restart()  # of a watchdog that was about to
    assert not triton.alive
    assert triton.restarts == 0
    assert not (place / "none").exists()


def test_a_keeper_that_is_ended_before_it_has_a_plan_ends_without_a_word() -> None:
    keeping = [sys.executable, "-IS", keeper.__file__]
    done = subprocess.run(keeping, input=keeper.SOON, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
