"""`bandstop unlearn svd`: in a row, for every class, without the data, on pictures of digits."""

import json
from pathlib import Path

import pytest
import torch

from bandstop.cli.layers import show_layers
from bandstop.cli.main import main
from bandstop.cli.unlearn_each import folder_name
from bandstop.edit import stand_in
from bandstop.edit.accuracy import logits
from bandstop.edit.artifact import load_artifact
from bandstop.edit.checkpoint import load_checkpoint, save_checkpoint
from bandstop.edit.classifier import Arch
from bandstop.edit.data import load_data
from bandstop.edit.data_for import data_for
from bandstop.edit.edits import WeightEdit
from bandstop.edit.manifest import read_manifest
from bandstop.edit.origin import origin_of
from bandstop.edit.svd import SVD
from bandstop.edit.synthesise import Synthesis
from bandstop.edit.train import Recipe, train

DATA = load_data("digits", seed=3)
QUICK = ("--set", "alpha_r=[100.0, 1000.0]", "--set", "alpha_f=[3.0, 30.0, 100.0]")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    recipe = Recipe(epochs=8, batch=32, lr=0.1, shift=1, flip=False)
    arch = Arch("bandstop:resnet", {"width": 16, "blocks": "1-1"})
    save_checkpoint(path, train(arch, DATA, recipe, seed=3), seed=3)
    return path


def unlearn(model: Path, out: Path, forget: str, *more: str) -> int:
    argv = ["unlearn", "svd", "--model", str(model), "--data", "digits", "--out", str(out)]
    return main([*argv, "--forget", forget, "--json", *more])


def without_data(model: Path, out: Path, source: str, forget: str, *more: str) -> int:
    argv = ["unlearn", "svd", "--model", str(model), "--stand-in", source, "--out", str(out)]
    return main([*argv, "--forget", forget, "--json", *more])


def recognised(artifact: Path) -> torch.Tensor:
    """Return the share of test images of each class that the edited network gets right."""
    right = logits(load_artifact(artifact).model, DATA.test).argmax(1) == DATA.test.labels
    return torch.stack([right[DATA.test.labels == c].float().mean() for c in range(10)])


def test_classes_are_forgotten_one_after_another(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unlearn(base, tmp_path / "a", "5") == 0
    assert "forget removed" in capsys.readouterr().err
    assert unlearn(tmp_path / "a", tmp_path / "b", "0") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["forget"] == ["0"]
    assert told["forgotten_before"] == ["5"]
    manifest = read_manifest(tmp_path / "b")
    assert manifest.request.classes == [0]
    assert manifest.forgotten_before == (5,)
    assert origin_of(str(tmp_path / "b")).forgotten == (0, 5)
    left = recognised(tmp_path / "b")
    assert left[[0, 5]].max() <= 0.05
    assert left[[1, 2, 3, 4, 6, 7, 8, 9]].mean() >= 0.85


def test_what_is_forgotten_is_neither_learnt_nor_validated_on(base: Path, tmp_path: Path) -> None:
    assert unlearn(base, tmp_path / "a", "5", *QUICK) == 0
    data = data_for(str(tmp_path / "a"), "digits", seed=99)
    for images in (data.train, data.validate):
        assert sorted(images.labels.unique().tolist()) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert torch.equal(data.test.index, DATA.test.index)  # divided as for the checkpoint


def test_a_class_is_forgotten_once(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unlearn(base, tmp_path / "a", "5", *QUICK) == 0
    assert unlearn(tmp_path / "a", tmp_path / "b", "0,5") == 2
    assert "the model has forgotten 5 already" in capsys.readouterr().err
    assert unlearn(tmp_path / "a", tmp_path / "b", "0,1,2,3,4,6,7,8,9") == 2
    assert "no class would be left" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_what_a_checkpoint_was_trained_without_counts_as_forgotten(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "reference.safetensors"
    save_checkpoint(model, load_checkpoint(base), seed=3, without=(7, 2))
    assert origin_of(str(model)).forgotten == (2, 7)
    data = data_for(str(model), "digits")
    for images in (data.train, data.validate):
        assert sorted(images.labels.unique().tolist()) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert torch.equal(data.test.index, DATA.test.index)
    assert unlearn(model, tmp_path / "a", "2") == 2
    assert "has forgotten 2 already, or was trained without" in capsys.readouterr().err
    assert unlearn(model, tmp_path / "a", "5", *QUICK) == 0
    assert read_manifest(tmp_path / "a").forgotten_before == (2, 7)


@pytest.mark.parametrize("source", ["synthesised", "digits"])
def test_a_class_is_forgotten_without_the_training_data(
    source: str,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stand_in, "Synthesis", lambda seed: Synthesis(40, 40, seed=seed))
    assert without_data(base, tmp_path / "a", source, "5") == 0
    assert json.loads(capsys.readouterr().out)["stand_in"] == source
    manifest = read_manifest(tmp_path / "a")
    assert (manifest.stand_in, manifest.request.classes) == (source, [5])
    assert manifest.split_seed == 3
    left = recognised(tmp_path / "a")
    assert left[5] <= 0.1
    assert (left.sum() - left[5]) / 9 >= 0.85


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "say --data D, or --stand-in"),
        (("--data", "digits", "--stand-in", "synthesised"), "exclude each other"),
        (("--stand-in", "digits", "--model", "torchvision:resnet18"), "needs a checkpoint"),
        (("--stand-in", "digits", "--image-size", "8"), "leave --checkpoint and --image-size out"),
        (("--stand-in", "digit"), "no data 'digit'"),
    ],
)
def test_the_data_or_what_stands_in_for_it(
    names: tuple[str, ...],
    message: str,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["unlearn", "svd", "--model", str(base), "--forget", "5"]
    assert main([*argv, "--out", str(tmp_path / "a"), *names]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_an_artifact_has_no_stand_in(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert unlearn(base, tmp_path / "a", "5", *QUICK) == 0
    assert without_data(tmp_path / "a", tmp_path / "b", "digits", "3") == 2
    assert "--stand-in needs a checkpoint" in capsys.readouterr().err


def test_every_class_gets_its_artifact(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "each"
    assert unlearn(base, out, "all-each") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["artifacts"] == [str(out / f"{c}-{c}") for c in range(10)]
    for c in range(10):
        left = recognised(out / f"{c}-{c}")
        assert left[c] <= 0.1
        assert (left.sum() - left[c]) / 9 >= 0.9
        assert read_manifest(out / f"{c}-{c}").request.classes == [c]


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "each", SVD._best
    edits: list[WeightEdit] = []

    def interrupted(*args: object) -> WeightEdit:
        if len(edits) == 2:
            raise KeyboardInterrupt
        edits.append(whole(*args))  # type: ignore[arg-type]  # as it was called
        return edits[-1]

    with monkeypatch.context() as patch:
        patch.setattr(SVD, "_best", interrupted)
        assert unlearn(base, out, "all-each", *QUICK) != 0
    assert sorted(p.name for p in out.iterdir()) == ["0-0", "1-1"]
    before = (out / "0-0" / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    assert unlearn(base, out, "all-each", *QUICK) == 2
    assert "exists" in capsys.readouterr().err
    assert unlearn(base, out, "all-each", "--resume", "--set", "alpha_r=[30.0]") == 2
    assert "other settings" in capsys.readouterr().err
    assert without_data(base, out, "digits", "all-each", "--resume", *QUICK) == 2
    assert "another model or data" in capsys.readouterr().err
    assert unlearn(base, out, "all-each", "--resume", *QUICK) == 0
    assert len(json.loads(capsys.readouterr().out)["artifacts"]) == 10
    assert len(list(out.iterdir())) == 10
    assert (out / "0-0" / "manifest.json").stat().st_mtime_ns == before


def test_two_runs_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert unlearn(base, tmp_path / out, "5", *QUICK) == 0
    for name in ("manifest.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_class_that_cannot_be_forgotten_is_told_and_the_others_are_written(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    useless = ("--set", "alpha_r=[0]", "--set", "alpha_f=[1.0e-9]", "--set", "compare=accuracy")
    assert unlearn(base, tmp_path / "each", "all-each", *useless) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert len(told["not_forgotten"]) + len(told["artifacts"]) == 10
    assert len(told["not_forgotten"]) >= 8
    assert shown.err.count("none of 1 settings did better") == len(told["not_forgotten"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("logit-mask", "--forget", "all-each"), "all-each is for svd"),
        (("svd",), "svd needs --forget NAME|INDEX[,..] or --instances FILE"),
        (("svd", "--instances", "missing.txt"), "not a readable text"),
    ],
)
def test_what_does_not_go_together_is_refused(
    argv: tuple[str, ...],
    message: str,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rest = ("--model", str(base), "--data", "digits", "--out", str(tmp_path / "out"))
    assert main(["unlearn", *argv, *rest]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("c", "names", "folder"),
    [
        (3, ("a", "b", "c", "cat"), "3-cat"),
        (3, ("x",) * 3 + ("tench, Tinca tinca",) + ("y",) * 996, "003-tench_Tinca_tinca"),
        (0, ("../../etc", "b"), "0-etc"),
        (1, ("a", "猫"), "1"),
        (1, ("a", "long" * 50), "1-" + "long" * 10),
    ],
)
def test_folders_are_named_safely(c: int, names: tuple[str, ...], folder: str) -> None:
    assert folder_name(c, names) == folder


def test_nothing_is_shown_of_an_edit_that_reports_no_layers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_layers({"alpha_r": 3.0})
    assert capsys.readouterr().err == ""


def test_masks_are_not_edited_further(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["unlearn", "wf-net", "--model", str(base), "--data", "digits"]
    steps = ("--set", "steps=60", "--set", "batch=64")
    if main([*argv, "--out", str(tmp_path / "masks"), *steps]) != 0:
        pytest.fail(capsys.readouterr().err)
    capsys.readouterr()
    assert unlearn(tmp_path / "masks", tmp_path / "b", "5") == 2
    assert "holds masks" in capsys.readouterr().err
