"""The benchmark of U-LiRA: its rows, its controls, and one whole run of tiny networks."""

import json
from pathlib import Path

import pytest
import torch

from bandstop.bench.__main__ import main
from bandstop.bench.ulira import row, table
from bandstop.edit.evaluation.shadows import Seen
from tests.networks import noise

TINY = ["--arch-arg", "width=4", "--arch-arg", "blocks=1-1", "--epochs", "2", "--device", "cpu"]


def networks(apart: float, forget: float, seed: int) -> list[Seen]:
    scores = apart + noise(4, 30, seed=seed, dtype=torch.float64)
    return [Seen(own, forget + i / 10, 0.5 + i / 10) for i, own in enumerate(scores)]


def test_a_row_compares_with_the_retrained_and_averages_its_own() -> None:
    made = row("svd", networks(30, 0.0, 0), networks(0, 0.6, 1))
    assert made.ulira_auc.value == 1.0
    assert made.forget_acc == pytest.approx(0.15)
    assert made.test_retain_acc == pytest.approx(0.65)
    near = row("svd", networks(0, 0.0, 0), networks(0, 0.6, 1))
    assert near.ulira_auc.value < 0.8
    shown = table([made, near], "digits")
    assert len(shown.rows) == 2


def run(method: str, cache: Path, capsys: pytest.CaptureFixture[str], *more: str) -> object:
    asked = ["--data", "digits", "--forget", "3", "--shadows", "3", "--cache", str(cache)]
    assert main(["ulira", method, *asked, *TINY, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_prints_the_method_beside_its_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run("ssd", tmp_path, capsys, "--set", "alpha=2")
    assert isinstance(told, dict)
    rows = {r["name"]: r for r in told["rows"]}
    assert list(rows) == ["original", "logit-mask", "ssd", "retrained"]
    assert rows["logit-mask"]["ulira_auc"]["value"] == 1.0
    assert rows["logit-mask"]["forget_acc"] == 0.0
    assert rows["retrained"]["forget_acc"] == 0.0
    assert rows["original"]["ulira_auc"]["value"] >= 0.9
    assert rows["original"]["forget_acc"] > 0.1
    assert rows["original"]["ulira_auc"]["n"] == 3
    assert told["network"] == "bandstop:resnet width=4 blocks=1-1"
    assert (told["shadows"], told["epochs"], told["forget"]) == (3, 2, "3")
    kept = {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    assert len(kept) == 9  # three originals, three retrained, three more as a control
    # another method finds them all
    again = run("logit-mask", tmp_path, capsys)
    assert isinstance(again, dict)
    assert [r["name"] for r in again["rows"]] == ["original", "logit-mask", "retrained"]
    assert again["rows"][0] == told["rows"][0]
    assert {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()} == kept


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--forget", "33"), "no class '33'"),
        (("--forget", "3", "--arch-arg", "width"), "expected key=value"),
        (("--forget", "3", "--set", "alpha=x"), "unknown setting alpha"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    cache = tmp_path / "cache"
    argv = ["ulira", "logit-mask", "--data", "digits", "--cache", str(cache), *more]
    assert main(argv) == 2
    assert said in capsys.readouterr().err
    assert not cache.exists()
