"""examples/pipeline.sh: it serves a version, or stops where a stage fails with that stage's code.

Its commands run in this process, one after the other: starting Python for each takes longer than
all of their work. What is slow runs once; where a later stage shall fail, its outcome is put in
place. One test calls the installed `bandstop`.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from bandstop.cli.main import main
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch
from bandstop.edit.data import load_data
from bandstop.edit.train import Recipe, train
from bandstop.export import release as releases
from bandstop.export.onnx_file import to_onnx
from bandstop.export.record_files import load_release
from bandstop.export.verify import verify
from tests.releases import release_folder

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# what the script calls in place of `bandstop`: hands the arguments over, and the outcome back
CALLER = """#!{python} -SE
import json, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    line.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    code, out = json.loads(line.makefile().readline())
print(out, end="")
sys.exit(code)
"""
Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that tells digits apart a little, and keys."""
    root = tmp_path_factory.mktemp("base")
    arch = Arch("bandstop:resnet", {"width": 4, "blocks": "1"})
    recipe = Recipe(epochs=2, batch=64, lr=0.1, shift=0, flip=False)
    model = train(arch, load_data("digits"), recipe)
    save_checkpoint(root / "base.safetensors", model, seed=0, recipe=recipe)
    assert main(["keygen", str(root / "release.pem")]) == 0
    return root


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """A folder to run in, with the checkpoint and the keys."""
    for name in ("base.safetensors", "release.pem", "release.pem.pub"):
        shutil.copy(base / name, tmp_path / name)
    return tmp_path


@dataclass
class Ran:
    """What came of a run: the exit code, what was printed, the stages that were called."""

    code: int
    out: str
    stages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class How:
    """How the script is run.

    Attributes:
        settings: of the script.
        spoil: stage -> what is changed just before it.
        replay: stages that are not run again, but give what they gave in the folder `made`.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    spoil: Mapping[str, Spoil] = field(default_factory=dict)
    replay: Sequence[str] = ()
    made: Path = Path()


def run(place: Path, how: How) -> Ran:
    """Run the script in `place`."""
    caller, address = place / "bandstop", place / "s"
    caller.write_text(CALLER.format(python=sys.executable, address="s"))
    caller.chmod(0o755)
    address.unlink(missing_ok=True)
    stages: list[str] = []
    variables = {"PATH": os.environ["PATH"], "BANDSTOP": str(caller), "METHOD": "logit-mask"}
    with contextlib.chdir(place), socket.socket(socket.AF_UNIX) as server:
        server.bind(address.name)  # the path of a socket must be short
        server.listen()
        server.settimeout(0.05)
        script = subprocess.Popen(
            ["/bin/sh", str(EXAMPLES / "pipeline.sh")],
            env={**variables, **how.settings},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            while script.poll() is None:
                with contextlib.suppress(TimeoutError):
                    serve(server, place, how, stages)
        finally:
            script.kill()
            out, _ = script.communicate()
    return Ran(script.returncode, out, stages)


def serve(server: socket.socket, place: Path, how: How, done: list[str]) -> None:
    """Run one command of the script."""
    line, _ = server.accept()
    with line, line.makefile() as asked, contextlib.redirect_stdout(io.StringIO()) as out:
        argv = json.loads(asked.readline())
        stage = argv[0] if argv[0] not in done else f"{argv[0]} again"
        done.append(stage)
        if stage in how.spoil:
            how.spoil[stage](place)
        if stage in how.replay:
            code, made = 0, Path("work") / MAKES[stage]
            later = shutil.ignore_patterns("signature.json")  # is made by a later stage
            shutil.copytree(how.made / made, place / made, ignore=later)
        else:
            code = main(argv)
        line.sendall(json.dumps([code, out.getvalue()]).encode() + b"\n")


MAKES = {"unlearn": "artifact", "evaluate": "evidence", "export": "release"}  # what takes time
ALL = ["unlearn", "evaluate", "gate", "export", "sign", "verify", "repo", "verify again"]


@pytest.fixture(scope="module")
def first(base: Path) -> Ran:
    """The script run once as it is, in the folder `base`."""
    return run(base, How())


def replayed(base: Path, last: str) -> How:
    """Return how to come to the stage `last` without waiting."""
    return How(replay=[stage for stage in MAKES if ALL.index(stage) < ALL.index(last)], made=base)


def test_a_network_becomes_a_verified_version_and_the_next_one_replaces_it(
    base: Path, first: Ran, place: Path
) -> None:
    assert (first.code, first.stages) == (0, ALL)
    assert first.out.splitlines()[-1] == "models/digits_forgotten/1"
    assert verify(base / "models" / "digits_forgotten" / "1").exit_code == 0
    assert (base / "work" / "evidence" / "report.html").exists()
    assert main(["verify", str(base / "work" / "artifact")]) == 0
    measured = load_release(base / "work" / "release").record.measured
    assert measured is not None
    assert measured.forget_acc == 0  # of the file itself
    shutil.copytree(base / "models", place / "models")
    second = run(place, replayed(base, "sign"))
    assert (second.code, second.stages) == (0, ALL)
    assert second.out.splitlines()[-1] == "models/digits_forgotten/2"
    key = str(place / "release.pem.pub")
    served = [str(place / "models" / "digits_forgotten" / n) for n in "12"]
    assert main(["verify", served[1], "--key", key, "--after", served[0]]) == 0
    assert main(["verify", served[0], "--key", key, "--after", served[1]]) == 7


@dataclass(frozen=True, slots=True)
class Case:
    """A way to fail: settings, what is spoilt before which stage; the code, the last stage."""

    code: int
    last: str
    settings: Mapping[str, str] = field(default_factory=dict)
    spoil: Mapping[str, Spoil] = field(default_factory=dict)


def flip(name: str) -> Spoil:
    def change(place: Path) -> None:
        data = bytearray((place / name).read_bytes())
        data[len(data) // 2] ^= 1
        (place / name).write_bytes(data)

    return change


def other_interface(place: Path) -> None:
    """Let a model of that name be there already that takes other images."""
    release = release_folder(place / "other")
    assert main(["repo", "publish", str(release), "models", "--model", "digits_forgotten"]) == 0


def impossible(place: Path) -> None:
    (place / "strict.yaml").write_text("rules: [{metric: test_retain_acc, min: 1.01}]")


FAILURES = {
    "no such checkpoint": Case(2, "unlearn", {"MODEL": "none"}),
    "unknown class": Case(2, "unlearn", {"FORGET": "eleven"}),
    "corrupt checkpoint": Case(5, "unlearn", spoil={"unlearn": flip("base.safetensors")}),
    "threshold out of reach": Case(3, "gate", {"GATE": "strict.yaml"}, spoil={"gate": impossible}),
    "artifact changed on the way": Case(
        5, "export", spoil={"export": flip("work/artifact/model.safetensors")}
    ),
    "no key": Case(2, "sign", spoil={"sign": lambda p: (p / "release.pem").unlink()}),
    "release changed on the way": Case(
        5, "verify", spoil={"verify": flip("work/release/model.onnx")}
    ),
    "model of another interface": Case(2, "repo", spoil={"repo": other_interface}),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_stage_that_fails_stops_the_pipeline(
    base: Path, first: Ran, place: Path, name: str
) -> None:
    assert first.code == 0
    case = FAILURES[name]
    how = replace(replayed(base, case.last), settings=case.settings, spoil=case.spoil)
    ran = run(place, how)
    assert (ran.code, ran.stages[-1]) == (case.code, case.last)
    assert "models/digits_forgotten/" not in ran.out
    assert published(place) == (["1"] if case.last == "repo" else [])


def published(place: Path) -> list[str]:
    """Return what is in the repository beside the files of the model, and nothing half-made."""
    assert not [p.name for p in place.glob(".models.stage*")]
    models = place / "models" / "digits_forgotten"
    return sorted(p.name for p in models.iterdir() if p.is_dir()) if models.exists() else []


def test_a_graph_that_does_not_compute_the_same_is_not_released(
    base: Path, first: Ran, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first.code == 0

    def of_other_weights(graph: torch.nn.Module, *tensors: object) -> bytes:
        other = copy.deepcopy(graph)
        with torch.no_grad():
            next(other.parameters()).mul_(1.5)
        return to_onnx(other, *tensors)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(releases, "to_onnx", of_other_weights)
    ran = run(place, replayed(base, "export"))
    assert (ran.code, ran.stages[-1]) == (4, "export")
    assert not (place / "work" / "release").exists()
    assert published(place) == []


def test_a_version_that_does_not_verify_is_told(base: Path, first: Ran, place: Path) -> None:
    assert first.code == 0
    spoil = {"verify again": flip("models/digits_forgotten/1/model.onnx")}
    ran = run(place, replace(replayed(base, "verify again"), spoil=spoil))
    assert (ran.code, ran.stages) == (5, ALL)
    assert ran.out.splitlines()[-1:] != ["models/digits_forgotten/1"]


def test_a_work_folder_that_exists_is_refused_before_work_begins(place: Path) -> None:
    (place / "work").mkdir()
    ran = run(place, How())
    assert (ran.code, ran.stages, list((place / "work").iterdir())) == (2, [], [])


def test_the_installed_command_is_what_is_called(place: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = ["/bin/sh", str(EXAMPLES / "pipeline.sh")]
    settings = {"PATH": path, "METHOD": "none"}
    done = subprocess.run(
        script, cwd=place, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pipeline: unlearn" in done.stderr
    assert "error: no method 'none'" in done.stderr
    assert done.stderr.endswith("pipeline: stopped with exit code 2\n")
