"""The table of what forgetting single images leaves, on a small network of digits."""

import json
from pathlib import Path

import pytest

from bandstop.bench.__main__ import main
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch
from bandstop.edit.data import load_data
from bandstop.edit.train import Recipe, train

DATA = load_data("digits", seed=0)
QUICK = ("adversarial=10", "attack_steps=10")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("made") / "base.safetensors"
    arch = Arch("bandstop:resnet", {"width": 12, "blocks": "1-1"})
    recipe = Recipe(epochs=6, batch=32, lr=0.1, shift=1, flip=False)
    save_checkpoint(file, train(arch, DATA, recipe, seed=0), seed=0)
    return file


def test_each_row_tells_what_is_left_of_all_sets_so_far(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for setting in QUICK for part in ("--set", setting)]
    asked = ["--model", str(base), "--data", "digits", "-k", "4", "--continual", "2"]
    assert main(["instances", *asked, "--variant", "adv-imp", *settings, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["k"], second["k"]) == (4, 4)
    for row in (first, second):
        assert (row["forget_acc"], row["worst_set"], row["reached"]) == (0.0, 0.0, 1.0)
        assert row["status"] == "forgot"
        assert row["retain_acc"] > 0.7
        assert row["test_acc"] > 0.7


def test_a_run_that_forgets_nothing_has_no_row(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = ["--set", "adversarial=0", "--set", "lr=1e-9", "--set", "max_steps=1"]
    asked = ["--model", str(base), "--data", "digits", "-k", "4", "--variant", "neg-grad"]
    assert main(["instances", *asked, *idle, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert "no instance was forgotten in 1 steps (cap)" in err
