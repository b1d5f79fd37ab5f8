"""Accuracies of an ONNX file, on files whose answers are known; and in a release."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from bandstop.cli.main import main
from bandstop.edit.arch import build
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.images import ImageSet
from bandstop.export.errors import SpecError
from bandstop.export.measure import Measure, accuracy_on_file
from bandstop.export.measure_asks import asks_of, digest, measured_rows
from bandstop.export.measure_record import MeasuredRecord
from bandstop.export.record import ForgetRecord, record_bytes
from bandstop.export.record_files import load_release
from bandstop.export.verify_measured import measured_checks
from tests.releases import record

CLASSES = 4
GATED = """
<ir_version: 10, opset_import: ["" : 18]>
classifier (PIXELS image, int64[N, 1] forget_class)
    => (float[N, 4] logits, int64[N, 1] applied_forget_class)
{
    wide = Cast <to = 1> (image)
    mean = ReduceMean <keepdims = 0> (wide, axes)
    scaled = Mul (mean, scale)
    rounded = Round (scaled)
    class = Cast <to = 7> (rounded)
    flat = Squeeze (class, one)
    right = OneHot <axis = 1> (flat, depth, ends)
    row = Squeeze (forget_class, one)
    hidden = Gather (table, row)
    logits = Add (right, hidden)
    applied_forget_class = Identity (forget_class)
}
"""
BAKED = """
<ir_version: 10, opset_import: ["" : 18]>
classifier (float[N, 1, 2, 2] image) => (float[N, 4] logits)
{
    mean = ReduceMean <keepdims = 0> (image, axes)
    scaled = Mul (mean, scale)
    rounded = Round (scaled)
    class = Cast <to = 7> (rounded)
    flat = Squeeze (class, one)
    right = OneHot <axis = 1> (flat, depth, ends)
    logits = Add (right, hidden)
}
"""


def filled(text: str, values: dict[str, object]) -> bytes:
    model = onnx.parser.parse_model(text)
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return bytes(model.SerializeToString())


COMMON: dict[str, object] = {
    "depth": np.int64(4),
    "ends": np.array([0, 1], np.float32),
    "one": np.array([1], np.int64),
    "axes": np.array([2, 3], np.int64),
}


def baked(hidden: int) -> bytes:
    """Return a file that is right on every picture but those of the class `hidden`."""
    bias = np.zeros(4, np.float32)
    bias[hidden] = -10
    return filled(BAKED, {**COMMON, "scale": np.float32(255), "hidden": bias})


def gated(table: np.ndarray[tuple[int, ...], np.dtype[np.float32]], kind: str = "float") -> bytes:
    """Return a file that is right but for `table` (rows, 4), which it adds to the logits."""
    as_bytes = kind == "uint8"
    pixels = "uint8[N, 2, 2, 1]" if as_bytes else "float[N, 1, 2, 2]"
    axes = np.array([1, 2] if as_bytes else [2, 3], np.int64)
    scale = np.float32(1 if as_bytes else 255)
    values = {**COMMON, "axes": axes, "scale": scale, "table": table}
    return filled(GATED.replace("PIXELS", pixels), values)


def pictures(counts: tuple[int, ...] = (10, 20, 30, 40)) -> ImageSet:
    """Return grey 2x2 pictures whose brightness, of 255, is their class."""
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(counts))
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return ImageSet(images, torch.arange(len(labels)), labels)


def forget(*classes: int, slots: int = 0, always: tuple[int, ...] = ()) -> ForgetRecord:
    return ForgetRecord(
        classes=list(classes), instances=0, always=list(always), slots=slots, allow_none=False
    )


def measured(file: bytes, told: ForgetRecord, most: int | None = None) -> MeasuredRecord:
    return accuracy_on_file(file, told, CLASSES, Measure(pictures(), "test", most))


def diagonal() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    table: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = -10 * np.eye(4, dtype=np.float32)
    return table


def test_a_baked_file_is_right_on_what_it_keeps_alone() -> None:
    found = measured(baked(2), forget(2))
    assert (found.forget_acc, found.worst_forget_acc, found.retain_acc) == (0, 0, 1)
    assert (found.rows, found.rows_total) == (1, 1)
    assert (found.forget_images, found.retain_images) == (30, 70)
    assert (found.images, found.images_total, found.data) == (100, 100, "test")


def test_a_file_that_forgot_another_class_is_told_by_both_figures() -> None:
    found = measured(baked(0), forget(2))
    assert (found.forget_acc, found.retain_acc) == (1, 0.8571)  # 60 of 70, to four digits


def test_without_a_forgotten_class_there_is_no_forget_acc() -> None:
    found = measured(baked(0), forget())
    assert (found.forget_acc, found.worst_forget_acc, found.retain_acc) == (None, None, 0.9)


@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_each_row_of_a_gated_file_is_asked_for_its_own_class_and_for_others(kind: str) -> None:
    found = measured(gated(diagonal(), kind), forget(slots=1))
    assert (found.forget_acc, found.worst_forget_acc, found.retain_acc) == (0, 0, 1)
    assert (found.rows, found.rows_total) == (4, 4)
    assert (found.forget_images, found.retain_images, found.images) == (100, 300, 100)


def test_the_worst_row_and_the_mean_over_rows_are_told_apart() -> None:
    table = diagonal()
    table[1] = 0  # this row forgets nothing
    table[3, 0] = -10  # this one forgets another class too
    found = measured(gated(table), forget(slots=1))
    assert (found.forget_acc, found.worst_forget_acc) == (0.25, 1)
    # of the fourth row's 60 others 10 are lost; each row counts the same
    assert found.retain_acc == pytest.approx((1 + 1 + 1 + 50 / 60) / 4, abs=5e-5)


def test_what_is_always_forgotten_counts_as_forgotten_in_every_row() -> None:
    table = diagonal()
    table[:, 3] = -10
    found = measured(gated(table), forget(slots=1, always=(3,)))
    assert (found.forget_acc, found.retain_acc) == (0, 1)
    assert found.forget_images == 3 * 40 + 60 + 40
    missed = measured(gated(diagonal()), forget(slots=1, always=(3,)))
    assert missed.worst_forget_acc == 0.8  # of 10 and 40 in the first row
    before = measured(gated(table), forget(3, slots=1))
    assert (before.forget_acc, before.retain_acc) == (0, 1)


def test_an_answer_that_is_no_number_is_not_right() -> None:
    table = diagonal()
    table[0] = np.nan
    found = measured(gated(table), forget(slots=1))
    assert found.forget_acc == 0
    assert found.retain_acc == 0.75


def test_a_sample_is_shared_by_rows_and_by_both_kinds_and_always_the_same() -> None:
    labels = pictures().labels
    told = forget(slots=1)
    asks = asks_of(labels, told, measured_rows(told, CLASSES), 40)
    for row in range(CLASSES):
        of_row = asks.row == row
        assert (int((of_row & asks.forgotten).sum()), int((of_row & ~asks.forgotten).sum())) == (
            5,
            5,
        )
        assert (labels[asks.position[of_row & asks.forgotten]] == row).all()
        assert (labels[asks.position[of_row & ~asks.forgotten]] != row).all()
    again = asks_of(labels, told, measured_rows(told, CLASSES), 40)
    assert torch.equal(asks.position, again.position)
    assert len({int(p) for p in asks.position}) > 25  # not the first ones alone
    assert (asks.position.diff() >= 0).all()
    found = measured(gated(diagonal()), told, most=40)
    assert (found.forget_images, found.retain_images) == (20, 20)
    assert found == measured(gated(diagonal()), told, most=40)


def test_of_many_rows_the_first_and_the_last_are_asked() -> None:
    rows = measured_rows(forget(slots=2), 1000)
    assert (len(rows), rows[0], rows[-1]) == (100, 0, 999)
    assert measured_rows(forget(2), 1000) == [-1]


def test_the_digest_is_of_pixels_and_labels() -> None:
    images = pictures()
    other = replace(images, labels=images.labels.flip(0))
    brighter = replace(images, images=pictures().images + torch.tensor(1, dtype=torch.uint8))  # type: ignore[operator]  # a tensor here
    assert len({digest(images), digest(other), digest(brighter)}) == 3
    assert digest(images) == digest(pictures())


def test_images_of_nothing_but_the_forgotten_are_refused() -> None:
    only = pictures((0, 0, 5, 0))
    with pytest.raises(SpecError, match="every test image is of what is forgotten"):
        accuracy_on_file(baked(2), forget(2), CLASSES, Measure(only, "test"))


LIES: dict[str, dict[str, object]] = {
    "rows": {"rows": 9},
    "rows in all": {"rows_total": 9},
    "images": {"images": 101},
    "worst": {"worst_forget_acc": None},
    "mean above the worst": {"forget_acc": 0.5},
}


@pytest.mark.parametrize("case", LIES)
def test_figures_that_cannot_be_are_a_misfit(case: str) -> None:
    facts = record().model_copy(update={"measured": measured(gated(diagonal()), forget(slots=1))})
    (check,) = measured_checks(facts)
    assert (check.outcome, list(measured_checks(record()))) == ("passed", [])
    assert check.note == "forget_acc 0.0, at worst 0.0, n 100; retain_acc 1.0, n 300; test"
    assert facts.measured is not None
    lie = facts.model_copy(update={"measured": facts.measured.model_copy(update=LIES[case])})
    (check,) = measured_checks(lie)
    assert len(list(check.misfits)) == 1


def digits(folder: Path) -> Path:
    """Write an artifact of digits that forgot class 3, by its logit alone."""
    arch, data = Arch("bandstop:resnet", {"width": 4, "blocks": "1"}), load_data("digits")
    model = Classifier(build(arch, 10, 1, (8, 8)), arch, data.preprocess, data.class_names)
    save_checkpoint(folder / "base.safetensors", model, seed=0)
    asked = ["--model", str(folder / "base.safetensors"), "--data", "digits", "--forget", "3"]
    assert main(["unlearn", "logit-mask", *asked, "--out", str(folder / "artifact")]) == 0
    return folder / "artifact"


def test_an_export_with_data_says_what_its_file_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = digits(tmp_path)
    argv = ["export", str(artifact), "--mode", "baked", "--data", "digits"]
    capsys.readouterr()
    assert main([*argv, "--out", str(tmp_path / "one"), "--json", "--measure", "100"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = load_release(tmp_path / "one").record.measured
    assert found is not None
    assert (told["forget_acc"], told["retain_acc"]) == (found.forget_acc, found.retain_acc)
    assert (found.forget_acc, told["answers"]) == (0, found.forget_images + 50)
    assert found.data == "digits"
    assert main(["verify", str(tmp_path / "one")]) == 0
    assert "measured" in capsys.readouterr().out
    assert main([*argv, "--out", str(tmp_path / "two"), "--measure", "100"]) == 0
    one, two = (load_release(tmp_path / n).record for n in ("one", "two"))
    assert record_bytes(one) == record_bytes(two)
    for bad, said in (("nothing", "no data"), ("parquet:none", "no such file")):
        capsys.readouterr()
        assert main([*argv[:-1], bad, "--out", str(tmp_path / "bad")]) == 2
        assert said in capsys.readouterr().err
    assert main([*argv, "--measure", "-1", "--out", str(tmp_path / "bad")]) == 2
    assert main([*argv, "--measure", "1", "--out", str(tmp_path / "bad")]) == 2
    assert not (tmp_path / "bad").exists()


def painted(root: Path) -> str:
    """Write a folder of blank pictures of ten classes, divided; return how it is named."""
    for part, count in (("train", 3), ("test", 9)):
        for c in range(10):
            (root / part / str(c)).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), 25 * c + i).save(root / part / str(c) / f"{i}.png")
    return f"imagefolder:{root}"


def test_a_file_is_compared_and_measured_on_test_images_when_training_images_are_gone(
    tmp_path: Path,
) -> None:
    arch, spec = Arch("bandstop:resnet", {"width": 4, "blocks": "1"}), painted(tmp_path / "data")
    data = load_data(spec)
    model = Classifier(build(arch, 10, 1, (8, 8)), arch, data.preprocess, data.class_names)
    save_checkpoint(tmp_path / "base.safetensors", model, seed=0)
    asked = ["--model", str(tmp_path / "base.safetensors"), "--data", spec, "--forget", "3"]
    assert main(["unlearn", "logit-mask", *asked, "--out", str(tmp_path / "artifact")]) == 0
    shutil.rmtree(tmp_path / "data" / "train" / "3")
    argv = ["export", str(tmp_path / "artifact"), "--mode", "baked", "--data", spec]
    assert main([*argv, "--out", str(tmp_path / "release")]) == 0
    record = load_release(tmp_path / "release").record
    assert record.measured is not None
    assert (record.measured.forget_acc, record.measured.forget_images) == (0, 9)
    assert record.parity.images == 45 + 8  # every other test image, and noise
