"""Bad input through the command line: one clear line, the right exit code, nothing half-written."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bandstop.cli.main import main
from bandstop.edit.arch import build
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.export.sign_keys import make_keys
from bandstop.serve.triton import start

ARCH = Arch("bandstop:resnet", {"width": 4, "blocks": "1"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, an artifact, a release and a repository, each made by its own command."""
    root = tmp_path_factory.mktemp("made")
    data = load_data("digits")
    network = build(ARCH, 10, 1, (8, 8))
    model = Classifier(network, ARCH, data.preprocess, data.class_names)
    save_checkpoint(root / "base.safetensors", model, seed=0)
    nine = Classifier(build(ARCH, 9, 1, (8, 8)), ARCH, data.preprocess, data.class_names[:9])
    save_checkpoint(root / "nine.safetensors", nine, seed=0)
    artifact, release = str(root / "artifact"), str(root / "release")
    base = str(root / "base.safetensors")
    for argv in (
        [
            "unlearn",
            "logit-mask",
            "--model",
            base,
            "--data",
            "digits",
            "--forget",
            "3",
            "--out",
            artifact,
        ],
        ["export", artifact, "--mode", "baked", "--out", release],
        ["repo", "publish", release, str(root / "repo"), "--model", "digits"],
    ):
        assert main(argv) == 0
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "image.png")
    (root / "text.png").write_text("not an image")
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of all that, to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "made"))


def unlearn(forget: str = "3", model: str = "base.safetensors", out: str = "out") -> list[str]:
    return [
        "unlearn",
        "logit-mask",
        "--model",
        model,
        "--data",
        "digits",
        "--forget",
        forget,
        "--out",
        out,
    ]


def cut(path: str) -> Callable[[Path], object]:
    return lambda here: (here / path).write_bytes((here / path).read_bytes()[:-9])


@dataclass(frozen=True, slots=True)
class Case:
    argv: list[str]
    code: int
    message: str
    spoil: Callable[[Path], object] = lambda here: None


EXPORT = ["export", "artifact", "--mode", "baked", "--out", "out"]
CASES = {
    "unknown class": Case(unlearn("eleven"), 2, "no class 'eleven'.*0..9"),
    "index out of range": Case(unlearn("10"), 2, "no class '10'"),
    "negative index": Case(unlearn("-1"), 2, "no class '-1'"),
    "every class": Case(unlearn("0,1,2,3,4,5,6,7,8,9"), 2, "all 10 classes"),
    "class named twice": Case(unlearn("3,#3"), 2, "named twice"),
    "nothing to forget": Case(
        ["unlearn", "svd", "--model", "base.safetensors", "--data", "digits", "--out", "out"],
        2,
        "svd needs --forget",
    ),
    "wf-net with a class": Case(
        ["unlearn", "wf-net", *unlearn()[2:]], 2, "wf-net unlearns every class"
    ),
    "unknown method": Case(["unlearn", "svm", *unlearn()[2:]], 2, "no method 'svm'"),
    "unknown setting": Case([*unlearn(), "--set", "alfa=3"], 2, "unknown setting alfa"),
    "setting of another type": Case(
        ["unlearn", "svd", *unlearn()[2:], "--set", "alpha_r=high"], 2, "alpha_r"
    ),
    "setting out of range": Case(
        ["unlearn", "wf-net", *unlearn()[2:6], "--out", "out", "--set", "batch=1"],
        2,
        "batch must be 2 or more",
    ),
    "setting that is not YAML": Case(
        ["unlearn", "svd", *unlearn()[2:], "--set", "alpha_r=["], 2, "not readable YAML"
    ),
    "seed out of range": Case([*unlearn(), "--seed", "99999999999999999999"], 2, "seed"),
    "negative seed": Case([*unlearn(), "--seed", "-1"], 2, "seed"),
    "negative seed as a setting": Case([*unlearn(), "--set", "seed=-1"], 2, "seed: expected 0"),
    "train with a negative seed": Case(
        ["train", "--arch", "resnet", "--data", "digits", "--out", "out", "--seed", "-1"], 2, "seed"
    ),
    "evaluate with a seed too large": Case(
        ["evaluate", "artifact", "--data", "digits", "--out", "out", "--seed", str(2**63)],
        2,
        "seed",
    ),
    "missing checkpoint": Case(unlearn(model="none.safetensors"), 2, "none.safetensors: no such"),
    "checkpoint of nine classes": Case(
        unlearn(model="nine.safetensors"), 2, r"class names: model 9 \(.*\), data 10"
    ),
    "truncated checkpoint": Case(unlearn(), 5, "base.safetensors", cut("base.safetensors")),
    "architecture without weights": Case(
        unlearn(model="torchvision:resnet18"), 2, "needs its weights: say --checkpoint"
    ),
    "unknown data": Case([*unlearn()[:5], "mnist", *unlearn()[6:]], 2, "no data 'mnist'"),
    "missing data": Case([*unlearn()[:5], "parquet:none", *unlearn()[6:]], 2, "no such file"),
    "output exists": Case(unlearn(out="artifact"), 2, "artifact exists"),
    "output without a parent": Case(unlearn(out="no/where/out"), 2, "parent folder"),
    "nothing to export": Case(["export", "none", *EXPORT[2:]], 2, "none: no such folder"),
    "unknown class to bake": Case([*EXPORT, "--forget", "x"], 2, "--forget: no class 'x'"),
    "unknown class for every request": Case(
        [*EXPORT, "--always-forget", "3,eleven"], 2, "--always-forget: no class 'eleven'"
    ),
    "parent that is not there": Case(
        ["sign", "release", "--key", "key", "--parent", "none"],
        2,
        "--parent none: expected a release",
        lambda here: make_keys(here / "key"),
    ),
    "no artifact": Case(["export", "repo", *EXPORT[2:]], 5, "not an artifact"),
    "truncated artifact": Case(EXPORT, 5, "bytes, expected", cut("artifact/model.safetensors")),
    "corrupt artifact": Case(
        EXPORT,
        5,
        "digest",
        lambda here: (here / "artifact" / "model.safetensors").write_bytes(
            b"x" + (here / "artifact" / "model.safetensors").read_bytes()[1:]
        ),
    ),
    "extra file in an artifact": Case(
        EXPORT, 5, "unlisted file", lambda here: (here / "artifact" / "x.pt").write_text("")
    ),
    "release exists": Case([*EXPORT[:-1], "release"], 2, "release exists"),
    "gates of a weight edit": Case(
        ["export", "artifact", "--mode", "gated", "--out", "out"], 2, "gated"
    ),
    "repository is a file": Case(
        ["repo", "publish", "release", "text.png", "--model", "digits"], 2, "text.png"
    ),
    "model name that is none": Case(
        ["repo", "publish", "release", "repo", "--model", "../x"], 2, "name"
    ),
    "corrupt release": Case(
        ["repo", "publish", "release", "repo"], 5, "model.onnx", cut("release/model.onnx")
    ),
    "no such repository": Case(["repo", "list", "none"], 2, "none"),
    "serving a file": Case(["serve", "text.png"], 2, "is a file"),
    "serving code": Case(
        ["serve", "repo"],
        5,
        "would be executed",
        lambda here: (here / "repo" / "digits" / "1" / "model.py").write_text(""),
    ),
    "nothing serves": Case(["serve", "repo", "--stop"], 6, "nothing serves"),
    "server not reachable": Case(
        ["predict", "image.png", "--model", "digits", "--url", "127.0.0.1:9", "--deadline", "2"],
        6,
        "127.0.0.1:9",
    ),
    "train output exists": Case(
        ["train", "--arch", "resnet", "--data", "digits", "--out", "base.safetensors"],
        2,
        "base.safetensors exists",
    ),
    "unknown network": Case(
        ["train", "--arch", "alexnet", "--data", "digits", "--out", "out"], 2, "alexnet"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_one_line_and_changes_nothing(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    case.spoil(here)
    monkeypatch.chdir(here)
    before = content(here)
    assert main(case.argv) == case.code
    out, err = capsys.readouterr()
    (line,) = [text for text in err.splitlines() if not text.startswith("this server is for")]
    assert line.startswith("error: ")
    assert out == ""
    assert re.search(case.message, line), line
    assert content(here) == before


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def url(made: Path) -> Iterator[str]:
    with start(made / "repo") as server:
        yield server.url


@pytest.mark.triton
def test_a_file_that_is_no_image_does_not_stop_the_others(
    made: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(made / name) for name in ("image.png", "text.png", "none.png")]
    assert main(["predict", *files, "--model", "digits", "--url", url, "--json"]) == 2
    out, err = capsys.readouterr()
    good, text, none = json.loads(out)
    assert good["error"] is None
    assert len(good["names"]) == len(good["probabilities"]) > 0
    assert "3" not in good["names"]
    assert "text.png" in text["error"]
    assert "none.png" in none["error"]
    assert [line.startswith("error: ") for line in err.splitlines()] == [True, True]


@pytest.mark.triton
@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--model", "nowhere"], 6, "nowhere"),
        (["--model", "digits", "--forget", "3"], 2, "forget"),  # baked: it cannot be applied
        (["--model", "no/name"], 2, "no/name"),
    ],
)
def test_predicting_what_is_not_served_is_one_line(
    made: Path,
    url: str,
    argv: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict", str(made / "image.png"), "--url", url, *argv]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.triton
def test_a_port_in_use_is_one_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(made / "repo"), "--port", str(port)]) == 1
    assert f"error: port {port} on 127.0.0.1 is in use" in capsys.readouterr().err
