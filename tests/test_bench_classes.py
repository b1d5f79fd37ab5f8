"""The table of what forgetting each class leaves, against counting by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bandstop.bench.__main__ import main
from bandstop.bench.classes import row, rows_of, summary
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch
from bandstop.edit.data import load_data
from bandstop.edit.train import CHARACTERS, train, without_classes

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def answers(*classes: int) -> torch.Tensor:
    """Return logits (6, 3) whose largest is at `classes`, the second largest one further."""
    first, second = torch.tensor(classes), (torch.tensor(classes) + 1) % 3
    return 2 * torch.eye(3)[first] + torch.eye(3)[second]


def test_a_row_counts_the_forgotten_and_the_other_images_apart() -> None:
    before = answers(0, 0, 1, 0, 2, 0)  # of class 0 all, of the others 1 + 1 of 4
    after = answers(1, 0, 1, 1, 2, 2)
    never = answers(1, 1, 1, 1, 2, 0)
    made = row((0,), LABELS, before, after, never, {})
    assert made.original == (1.0, 0.5)
    assert made.masked_retain == 0.75  # the fourth image falls to class 1, the last one too
    assert made.edited == (0.5, 1.0)
    assert made.worst == 0.5
    assert row((0, 1), LABELS, before, after, None, {}).worst == 1.0
    assert made.retrained == (0.0, 0.75)
    other = row((1,), LABELS, before, before, None, {})
    assert summary([made, other]) == pytest.approx(
        {
            "original_retain_acc": (0.5 + 0.75) / 2,
            "masked_retain_acc": (0.75 + 0.75) / 2,
            "test_retain_acc": (1.0 + 0.75) / 2,
            "test_forget_acc": 0.5,
            "worst_test_forget_acc": 0.5,
            "worst_test_retain_loss": 0.0,
        }
    )


def test_random_sets_are_seeded_and_hold_different_classes() -> None:
    assert rows_of([3, 5], 1, 20, 0) == [(3,), (5,)]
    sets = rows_of(range(10), 2, 20, 7)
    assert len(sets) == 20
    assert all(a < b for a, b in sets)
    assert sets == rows_of(range(10), 2, 20, 7)
    assert sets != rows_of(range(10), 2, 20, 8)


def test_the_command_prints_each_class_beside_its_retrained_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("digits")
    arch = Arch("bandstop:resnet", {"width": 8, "blocks": "1"})
    for name, gone in (("base", ()), ("never", (4,))):
        model = train(arch, without_classes(data, gone), replace(CHARACTERS, epochs=8), seed=0)
        save_checkpoint(tmp_path / name, model, seed=0, without=gone)
    asked = ["--model", str(tmp_path / "base"), "--data", "digits", "--forget", "4,7", "--json"]
    code = main(["classes", "svd", *asked, "--retrained", str(tmp_path / "never")])
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [r["forget"] for r in told["rows"]] == [[4], [7]]
    assert told["rows"][0]["retrained"][0] == 0.0
    assert told["rows"][1]["retrained"] is None
    assert told["rows"][0]["edited"][0] < told["rows"][0]["original"][0]
    assert main(["classes", "svd", *asked, "--sequential"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["forget"] for r in told["rows"]] == [[4], [4, 7]]
    assert told["rows"][1]["worst"] <= 0.2


def test_training_images_can_be_made_up_and_the_test_images_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("digits")
    arch = Arch("bandstop:resnet", {"width": 8, "blocks": "1"})
    save_checkpoint(tmp_path / "base", train(arch, data, replace(CHARACTERS, epochs=8)), seed=0)
    asked = ["--model", str(tmp_path / "base"), "--data", "digits", "--forget", "4", "--json"]
    rows = []
    for more in ([], ["--stand-in", "synthesised"]):
        assert main(["classes", "svd", *asked, *more]) == 0
        rows.append(json.loads(capsys.readouterr().out)["rows"][0])
    assert rows[0]["original"] == rows[1]["original"]  # both read on the same test images
    assert rows[0]["edited"] != rows[1]["edited"]
    assert rows[1]["edited"][0] <= 0.3


@pytest.mark.parametrize(
    ("method", "option", "said"),
    [
        ("svd", ("--together", "2"), "random sets are for wf-net"),
        ("svd", ("--together", "2", "--each"), "random sets are for wf-net"),
        ("wf-net", ("--each",), "one pass for all classes is for svd"),
    ],
)
def test_options_of_the_other_method_are_refused(
    method: str,
    option: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arch = Arch("bandstop:resnet", {"width": 4, "blocks": "1"})
    model = train(arch, load_data("digits"), replace(CHARACTERS, epochs=1))
    save_checkpoint(tmp_path / "base", model, seed=0)
    argv = ["classes", method, "--model", str(tmp_path / "base"), "--data", "digits", *option]
    assert main(argv) == 2
    assert said in capsys.readouterr().err
