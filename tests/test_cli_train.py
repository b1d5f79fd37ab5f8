"""`bandstop train` from end to end: what it prints, what it leaves, what it refuses."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bandstop.cli.main import main
from bandstop.edit import train as train_module
from bandstop.edit.accuracy import accuracy, logits
from bandstop.edit.checkpoint import describe_checkpoint, load_checkpoint
from bandstop.edit.classifier import Classifier
from bandstop.edit.data import load_data
from bandstop.edit.images import DataSplits
from bandstop.edit.train import CHARACTERS, Recipe
from bandstop.edit.training import Training

SMALL = ["--arch", "resnet", "--arch-arg", "width=4", "--arch-arg", "blocks=1-1"]
QUICK = [*SMALL, "--data", "digits", "--epochs", "2", "--device", "cpu", "--seed", "3"]


def train(out: Path, *more: str) -> int:
    return main(["train", *QUICK, "--out", str(out), *more])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error that was printed, after checking that it is one line."""
    printed = capsys.readouterr()
    assert printed.out == ""
    line = printed.err.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


def test_a_checkpoint_and_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "base.safetensors"
    assert train(out, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() == {"checkpoint", "validation_acc", "test_acc"}
    assert shown["checkpoint"] == str(out)
    model, data = load_checkpoint(out), load_data("digits", seed=3)
    for name, images in (("validation_acc", data.validate), ("test_acc", data.test)):
        right = accuracy(logits(model, images).argmax(1), images.labels)
        assert shown[name] == pytest.approx(right, abs=1e-4)
    assert model.arch.args == {"width": 4, "blocks": "1-1"}
    assert model.class_names == tuple("0123456789")
    assert model.preprocess == data.preprocess
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DataSplits, Recipe]]:
    """Return a list that grows by the data and recipe of each training."""
    started: list[tuple[DataSplits, Recipe]] = []
    start = train_module._start

    def watched(model: Classifier, data: DataSplits, recipe: Recipe, seed: int) -> Training:
        started.append((data, recipe))
        return start(model, data, recipe, seed)

    monkeypatch.setattr(train_module, "_start", watched)
    return started


def test_without_trains_the_reference_on_all_other_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = watch(monkeypatch)
    out = tmp_path / "retrained"
    assert train(out, "--without", "7,#2", "--epochs", "6", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    ((seen, _),) = started
    whole, model = load_data("digits", seed=3), load_checkpoint(out)
    for part, full in ((seen.train, whole.train), (seen.validate, whole.validate)):
        assert torch.equal(part.index, full.without_classes((2, 7)).index)
    assert describe_checkpoint(out).without == (2, 7)
    assert shown["without"] == ["2", "7"]
    assert (model.class_names, model.preprocess) == (whole.class_names, whole.preprocess)
    answers = logits(model, whole.test).argmax(1)
    assert not set(answers.tolist()) & {2, 7}
    others = whole.test.without_classes((2, 7))
    right = accuracy(logits(model, others).argmax(1), others.labels)
    assert shown["test_acc"] == pytest.approx(right, abs=1e-4)
    assert right > 0.5  # of 8 classes


def test_a_second_training_starts_from_a_checkpoint(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    asked = ["train", "--arch", "resnet", "--arch-arg", "width=4", "--data", "digits"]
    asked += ["--epochs", "1"]
    assert main([*asked, "--out", str(first)]) == 0
    assert main([*asked, "--init", str(first), "--lr", "0", "--out", str(second)]) != 0  # lr > 0
    assert main([*asked, "--init", str(first), "--lr", "1e-12", "--out", str(second)]) == 0
    old, new = (load_checkpoint(p).network.state_dict() for p in (first, second))
    torch.testing.assert_close(new["fc.weight"], old["fc.weight"], rtol=0, atol=1e-9)


def test_the_recipe_can_be_overridden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = watch(monkeypatch)
    assert train(tmp_path / "a") == 0
    assert train(tmp_path / "b", "--batch", "32", "--label-smoothing", "0", "--lr", "0.05") == 0
    plain = replace(CHARACTERS, epochs=2)
    assert [recipe for _, recipe in started] == [
        plain,
        replace(plain, batch=32, label_smoothing=0, lr=0.05),
    ]
    assert describe_checkpoint(tmp_path / "a").without == ()
    assert b"without" not in (tmp_path / "a").read_bytes()  # as before there was such an option


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C after the first epoch."""

    def one(items: Sequence[int], _what: str) -> Iterator[int]:
        yield items[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "progress", one)


def test_an_interrupted_run_can_be_resumed_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "base"
    assert train(whole) == 0
    with monkeypatch.context() as patched:
        interrupt(patched)
        assert train(out) == 130
    assert not out.exists()
    partial = tmp_path / "base.partial"
    kept = partial.read_bytes()

    capsys.readouterr()
    assert train(out) == 2
    assert "say --resume or remove it" in error(capsys)
    assert partial.read_bytes() == kept

    assert train(out, "--resume") == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_an_existing_output_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").write_bytes(b"old")
    assert train(tmp_path / "base", "--data", "unknown") == 2
    assert "exists" in error(capsys)
    assert (tmp_path / "base").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--arch", "resnet99"], 2, "no network bandstop:resnet99"),
        (["--arch", "os:system"], 2, "os:system takes no arguments"),
        (["--arch-arg", "width"], 2, "expected key=value"),
        (["--arch-arg", "width=0"], 2, "width=0"),
        (["--data", "mnist"], 2, "no data 'mnist'"),
        (["--data", "parquet:absent.parquet"], 2, "no such file"),
        (["--device", "tpu"], 2, "expected auto, cpu or cuda"),
        (["--epochs", "0"], 2, "--epochs"),
        (["--image-size", "0"], 2, "--image-size"),
        (["--image-size", "9"], 2, "digits are 8x8"),
        (["--lr", "1e30"], 1, "lower lr"),
        (["--batch", "1"], 2, "--batch"),
        (["--label-smoothing", "1"], 2, "label_smoothing < 1"),
        (["--without", "cat"], 2, "--without: no class 'cat'; expected one of 10 names"),
        (["--without", "3,#3"], 2, "--without: a class is named twice"),
        (["--without", "0,1,2,3,4,5,6,7,8,9"], 2, "--without: all 10 classes are named"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    message: str,
) -> None:
    assert train(tmp_path / "base", *more) == code
    assert message in error(capsys)
    assert list(tmp_path.iterdir()) == []
