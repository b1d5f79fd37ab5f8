"""`bandstop unlearn l2ul`: by a list of images, killed and resumed, in a team, in a row."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bandstop.cli.main import main
from bandstop.edit.accuracy import logits
from bandstop.edit.artifact import load_artifact
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch
from bandstop.edit.data import load_data
from bandstop.edit.images import ImageSet
from bandstop.edit.manifest import read_manifest
from bandstop.edit.origin import origin_of
from bandstop.edit.train import Recipe, train

DATA = load_data("digits", seed=3)
NUMBERS = DATA.train.index[:8].tolist()
QUICK = ("adversarial=4", "attack_steps=5", "eps=1.0", "batch=16", "lr=0.01", "penalty=0.1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    recipe = Recipe(epochs=8, batch=32, lr=0.1, shift=1, flip=False)
    arch = Arch("bandstop:resnet", {"width": 16, "blocks": "1-1"})
    save_checkpoint(path, train(arch, DATA, recipe, seed=3), seed=3)
    return path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return written(tmp_path / "list.txt", NUMBERS)


def written(path: Path, lines: list[int] | list[str]) -> Path:
    path.write_text("# to be forgotten\n" + "".join(f"{line}\n" for line in lines))
    return path


def arguments(model: Path, out: Path, instances: Path, *more: str) -> list[str]:
    settings = [part for setting in QUICK for part in ("--set", setting)]
    named = ["unlearn", "l2ul", "--model", str(model), "--data", "digits", "--out", str(out)]
    return [*named, "--instances", str(instances), "--device", "cpu", *settings, *more]


def chosen(numbers: list[int]) -> ImageSet:
    return DATA.train.take(torch.isin(DATA.train.index, torch.tensor(numbers)))


def known(artifact: Path, images: ImageSet) -> float:
    answers = logits(load_artifact(artifact).model, images).argmax(1)
    return float((answers == images.labels).double().mean())


def test_listed_images_are_forgotten_and_the_rest_stays(
    base: Path, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    assert main([*arguments(base, out, listed), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["instances"] == 8
    assert isinstance(told["over_forgot"], bool)
    assert known(out, chosen(NUMBERS)) == 0
    assert read_manifest(out).request.instances == sorted(NUMBERS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "list.txt"]  # nothing is left over


def test_new_labels_are_taken_from_the_list(base: Path, tmp_path: Path) -> None:
    labels = [(int(c) + 1) % 10 for c in chosen(NUMBERS).labels]
    pairs = [f"{n} {c}" for n, c in zip(sorted(NUMBERS), labels, strict=True)]
    listed, out = written(tmp_path / "list.txt", pairs), tmp_path / "a"
    assert main([*arguments(base, out, listed), "--set", "goal=relabel"]) == 0
    answers = logits(load_artifact(out).model, chosen(NUMBERS)).argmax(1)
    assert answers.tolist() == labels
    assert read_manifest(out).request.labels == labels


def test_a_second_list_is_forgotten_on_top_of_the_first(
    base: Path, listed: Path, tmp_path: Path
) -> None:
    later = DATA.train.index[20:24].tolist()
    assert main(arguments(base, tmp_path / "a", listed)) == 0
    second = written(tmp_path / "second.txt", later)
    assert main(arguments(tmp_path / "a", tmp_path / "b", second)) == 0
    assert origin_of(str(tmp_path / "b")).instances == tuple(sorted([*NUMBERS, *later]))
    assert known(tmp_path / "b", chosen(later)) == 0


def test_what_is_forgotten_already_is_not_forgotten_again(
    base: Path, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(base, tmp_path / "a", listed)) == 0
    assert main(arguments(tmp_path / "a", tmp_path / "b", listed)) == 2
    assert "8 of 8 are no training images" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def killed(command: list[str], state: Path) -> None:
    """Start the command line and kill it as soon as it has noted its state."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "bandstop.cli.main", *command]
    run = subprocess.Popen(whole, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not state.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()


@pytest.mark.parametrize("method", ["l2ul", "wf-net", "fine-tune"])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    base: Path, listed: Path, tmp_path: Path, method: str
) -> None:
    def command(out: Path) -> list[str]:
        if method == "l2ul":
            return arguments(base, out, listed, "--set", "lr=0.001", "--set", "max_steps=1000")
        named = ["unlearn", method, "--model", str(base), "--data", "digits", "--out", str(out)]
        if method == "wf-net":
            return [*named, "--set", "steps=60"]
        return [*named, "--forget", "3", "--set", "batch=32"]

    assert main(command(tmp_path / "whole")) == 0
    out, state = tmp_path / "killed", tmp_path / "killed.partial"
    killed(command(out), state)
    assert state.exists()
    assert not out.exists()
    assert main(command(out)) == 2  # the state is not thrown away unasked
    assert main([*command(out), "--resume"]) == 0
    assert not state.exists()
    for file in (tmp_path / "whole").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_two_processes_write_one_artifact(base: Path, listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    team = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    argv = arguments(base, out, listed, "--set", "bn=freeze", "--json")
    command = [sys.executable, "-m", *team, "bandstop.cli.main", *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert known(out, chosen(NUMBERS)) == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "names no image"),
        (["cat"], "expected a number at the start of each line, got 'cat'"),
        (["3", "3"], "named twice: 3"),
        (["99999999"], "1 of 1 are no training images (99999999)"),
        (["1 2", "3"], "give a label on every line or on none"),
        (["1 nothing"], "no class 'nothing'"),
    ],
)
def test_bad_lists_are_refused_in_one_line(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lines: list[str],
    message: str,
) -> None:
    listed = written(tmp_path / "list.txt", lines)
    assert main(arguments(base, tmp_path / "a", listed)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--forget", "3"), "--forget and --instances exclude each other"),
        (("--device", "tpu"), "expected auto, cpu or cuda"),
    ],
)
def test_what_does_not_go_together_is_refused(
    base: Path,
    listed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    assert main([*arguments(base, tmp_path / "a", listed), *more]) == 2
    assert message in capsys.readouterr().err
