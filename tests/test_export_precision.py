"""Releases of lower precision: how they are judged, what they say, what is refused."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bandstop.cli.main import main
from bandstop.edit.arch import build
from bandstop.edit.artifact import Artifact, load_artifact, save_artifact
from bandstop.edit.baselines.logit_mask import OFF
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import InputError
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD
from bandstop.export import precision as lowering_module
from bandstop.export import release as releases
from bandstop.export.errors import ForgettingLost, ParityFailed, SpecError
from bandstop.export.graph import PlainGraph
from bandstop.export.measure import Measure
from bandstop.export.measure_asks import Asks
from bandstop.export.onnx_file import to_onnx
from bandstop.export.precision import lowered
from bandstop.export.precision_check import (
    TOLERANCES,
    Accuracy,
    Answers,
    agreement,
    ask_of_instances,
    check_rows,
    forgotten,
    refuse_lost,
    retained,
)
from bandstop.export.precision_data import Draw, Lowering, calibration_feeds, lowering_of
from bandstop.export.record import ForgetRecord, TensorRecord
from bandstop.export.record_files import Release, load_release
from bandstop.export.release import Options, export_release
from bandstop.export.spec import ExportSpec
from bandstop.export.verify import verify
from tests.networks import corners
from tests.releases import gates_artifact, weights_artifact
from tests.whole_releases import BAKED

INT8, FP16 = ExportSpec("baked", precision="int8"), ExportSpec("baked", precision="fp16")


def said(rows: list[int], labels: list[int], low: list[int], wide: list[int]) -> Answers:
    """Return answers in which each file gives the classes `low` and `wide` a logit of 1."""
    row, label = torch.tensor(rows), torch.tensor(labels)
    asks = Asks(torch.arange(len(label)), row, label == row)
    eye = torch.eye(4)
    return Answers(eye[wide], eye[low], label, asks)


def test_accuracies_are_means_over_rows_of_what_each_forgets_and_of_the_rest() -> None:
    answers = said(
        rows=[0, 0, 0, 1, 1, 1],
        labels=[0, 0, 1, 1, 2, 3],
        low=[0, 3, 1, 1, 2, 0],
        wide=[1, 3, 1, 0, 2, 3],
    )
    lost, kept = forgotten(answers), retained(answers)
    assert (lost.low, lost.float32) == (0.75, 0)  # a half of row 0, all of row 1
    assert (kept.low, kept.float32) == (0.75, 1)
    assert lost.row_rise is None  # too few to tell


def test_a_single_row_is_told_where_it_has_images_enough() -> None:
    rows = [0] * 100 + [1] * 100
    low = [0] * 3 + [2] * 97 + [2] * 100
    answers = said(rows, rows, low, [2] * 200)
    assert forgotten(answers) == Accuracy(0.015, 0, 0.03)
    assert forgotten(replace(answers, asks=replace(answers.asks, row=torch.tensor([0] * 200)))) == (
        Accuracy(0.015, 0, 0.015)
    )


@pytest.mark.parametrize(
    ("accuracy", "most", "lost"),
    [
        (Accuracy(None, None, None), 0.0, None),
        (Accuracy(0.02, 0.01, None), 0.01, None),
        (Accuracy(0.02, 0.0, None), 0.01, "rises by 2.0 points on average, expected <= 1.0"),
        (Accuracy(0.001, 0.0, 0.02), 0.01, "rises by 2.0 points in one row"),
        (Accuracy(0.02, 0.0, 0.02), 0.02, None),
        (Accuracy(0.0, 0.5, -0.1), 0.0, None),
    ],
)
def test_what_comes_back_by_more_than_is_allowed_is_refused(
    accuracy: Accuracy, most: float, lost: str | None
) -> None:
    if lost is None:
        refuse_lost(accuracy, most, "int8", "x")
        return
    with pytest.raises(ForgettingLost, match=lost) as caught:
        refuse_lost(accuracy, most, "int8", "x")
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_agreement_is_measured_against_how_far_logits_lie_apart() -> None:
    wide = torch.tensor([[0.0, 4.0, OFF], [8.0, -4.0, OFF]])
    answers = replace(said([0, 0], [0, 1], [0, 0], [0, 0]), wide=wide, low=wide + 0.15)
    close = agreement(answers, "int8")
    spread = ((16 + 16 + 0) / 3) ** 0.5  # the logit switched off has no part in it
    assert close.spread == float(f"{spread:.1e}")
    assert (close.mean_abs, close.max_abs) == pytest.approx((0.15, 0.15), rel=0.01)
    assert (close.top1_agreement, close.compared) == (1, 2)
    for low in (wide + 0.17, wide + torch.nan):
        with pytest.raises(ParityFailed, match="int8: a logit differs"):
            agreement(replace(answers, low=low), "int8")
    with pytest.raises(ParityFailed, match="fp16"):
        agreement(answers, "fp16")
    swapped = replace(answers, low=wide.roll(1, dims=0) * 1e-3 + wide * 0.999)
    assert agreement(swapped, "int8").top1_agreement == 1


def corner_lowering(**changes: object) -> Lowering:
    images = corners(80)
    own = Lowering(images.take(torch.arange(40)), Measure(images, "test", 40))
    return replace(own, **changes)  # type: ignore[arg-type]  # fields of it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="module")
def gated(place: Path) -> Release:
    spec = ExportSpec("gated", forget_slots=2, allow_none=True, max_batch_size=8, precision="int8")
    options = Options(measure=corner_lowering().measure, lowering=corner_lowering())
    return export_release(gates_artifact(place / "gates"), spec, place / "gated", options)


def test_a_gated_release_of_8_bits_refuses_rows_and_says_what_it_is(gated: Release) -> None:
    told = gated.record.precision
    assert told is not None
    assert (told.kind, told.refused, told.calibration_images) == ("int8", 10, 40)
    assert told.compared == 40
    assert told.forget_acc is not None
    assert 0 < told.max_abs < 0.5 * told.spread
    assert gated.record.measured is not None
    assert gated.record.measured.retain_acc == told.retain_acc
    assert gated.record.measured.forget_acc == told.forget_acc
    assert verify(gated.path).exit_code == 0
    assert load_release(gated.path) == gated


def test_a_low_release_that_says_it_is_not_one_does_not_verify(
    gated: Release, tmp_path: Path
) -> None:
    facts = json.loads((gated.path / "release.json").read_text())
    assert facts["precision"]["kind"] == "int8"
    folder = tmp_path / "release"
    folder.mkdir()
    for file in gated.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "release.json").write_text(json.dumps({**facts, "precision": None}))
    report = verify(folder)
    assert report.exit_code == 5
    assert any("is not on the list" in line for _, line in report.misfits)


def never_refuses(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "gates.refused":
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.float32), tensor.name))


def other_ids(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "gates.ids":
            ids = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(ids[::-1].copy(), tensor.name))


@pytest.mark.parametrize(
    ("change", "what"), [(never_refuses, "row refused"), (other_ids, "says that it applied")]
)
def test_rows_that_are_not_refused_or_not_those_asked_for_are_found(
    gated: Release, change: Callable[[onnx.ModelProto], None], what: str
) -> None:
    spec = ExportSpec("gated", forget_slots=2, allow_none=True, max_batch_size=8)
    file = (gated.path / "model.onnx").read_bytes()
    assert check_rows(file, spec, 4, corners(80)) == 10
    model = onnx.load_model_from_string(file)
    change(model)
    with pytest.raises(ParityFailed, match=what):
        check_rows(model.SerializeToString(), spec, 4, corners(80))


def test_forgotten_images_are_asked_under_a_row_that_is_not_theirs(gated: Release) -> None:
    file, gone = (gated.path / "model.onnx").read_bytes(), corners(8)
    forget = gated.record.forget
    said_ = ask_of_instances(file, file, forget, 4, gone)
    assert said_.asks.row.tolist() == [1, 2, 3, 0] * 2
    assert forget.slots == 2
    assert torch.equal(said_.low, said_.wide)
    assert bool(said_.low.isfinite().all())


def test_a_refused_answer_is_never_right() -> None:
    answers = said([0] * 4, [0] * 4, [0] * 4, [0] * 4)
    low = answers.low.clone()
    low[1:] = torch.nan  # argmax would take the first class
    assert forgotten(replace(answers, low=low)) == Accuracy(0.25, 1, None)


def test_each_row_is_calibrated_in_every_slot_as_pixels_are_asked() -> None:
    spec = ExportSpec("gated", forget_slots=2, allow_none=True, input="uint8")
    batches = list(calibration_feeds(corners(40), spec, 4))
    assert [len(b["image"]) for b in batches] == [32, 8]
    rows = np.concatenate([b["forget_class"] for b in batches])
    assert rows.tolist() == [[i % 5] * 2 for i in range(40)]
    assert batches[0]["image"].shape == (32, 8, 8, 1)
    (floats,) = calibration_feeds(corners(8), ExportSpec("baked"), 4)
    assert set(floats) == {"image"}
    wanted = batches[0]["image"][:8].transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert floats["image"] == pytest.approx(wanted, abs=1e-6)


@cache
def reader(size: int) -> Classifier:
    """Return a network that was shown digits where `size` is theirs."""
    data, arch = load_data("digits"), Arch("bandstop:resnet", {"width": 4, "blocks": "1"})
    network = build(arch, 10, 1, (size, size), seed=0)
    model = Classifier(network, arch, replace(data.preprocess, size=(size, size)), data.class_names)
    if size == 8:
        network.train()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for image, label in data.train.batches(64, torch.Generator().manual_seed(0)):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(image), label).backward()
            optimizer.step()
    return fold_batchnorm(model.eval())


def digits(folder: Path, request: ForgetRequest, size: int = 8) -> Artifact:
    """Save an artifact of digits whose logit of class 3 is switched off."""
    model = reader(size)
    state = model.network.state_dict()
    head = {name: value.clone() for name, value in state.items() if name.startswith("fc.")}
    head["fc.weight"][3], head["fc.bias"][3] = 0, OFF
    edit = WeightEdit(head)
    save_artifact(folder, model, edit, method=SVD(), request=request, parent=model, split_seed=0)
    return load_artifact(folder)


def test_what_was_forgotten_is_not_calibrated_with(tmp_path: Path) -> None:
    data = load_data("digits")
    artifact = digits(tmp_path / "classes", ForgetRequest(classes=(3,)))
    draw = Draw(calibrate=2000, most=None)
    low = lowering_of(artifact, "digits", replace(INT8, always_forget=(5,)), draw)
    assert set(low.calibrate.labels.tolist()) == set(range(10)) - {3, 5}
    assert len(low.calibrate) == len(data.train.without_classes((3, 5)))
    assert low.gone is None
    assert torch.equal(low.measure.images.index, data.test.index)
    some = [lowering_of(artifact, "digits", INT8, Draw(20, seed=s)).calibrate for s in (0, 0, 1)]
    assert [len(images) for images in some] == [20, 20, 20]
    assert torch.equal(some[0].index, some[1].index)
    assert not torch.equal(some[0].index, some[2].index)
    single = tuple(data.train.index[:4].tolist())
    artifact = digits(tmp_path / "images", ForgetRequest(instances=single))
    low = lowering_of(artifact, "digits", INT8, draw)
    assert low.gone is not None
    assert low.gone.index.tolist() == list(single)
    assert len(low.calibrate) == len(data.train) - 4


def test_draws_out_of_range_are_told_at_once(tmp_path: Path) -> None:
    artifact = digits(tmp_path / "artifact", ForgetRequest(classes=(3,)))
    with pytest.raises(SpecError) as caught:
        lowering_of(artifact, "digits", INT8, Draw(calibrate=0, most=1, seed=-1, most_rise=1.5))
    for part in ("calibrate: expected 1", "got 1", "seed: expected 0", "rise of forget_acc"):
        assert part in str(caught.value)
    larger = digits(tmp_path / "larger", ForgetRequest(classes=(3,)), size=16)
    with pytest.raises(InputError, match="the model takes"):
        lowering_of(larger, "digits", INT8, Draw())


def test_precision_and_images_come_together(tmp_path: Path) -> None:
    artifact = weights_artifact(tmp_path / "artifact")
    with pytest.raises(SpecError, match="int8: needs a data set"):
        export_release(artifact, INT8, tmp_path / "out")
    options = Options(lowering=corner_lowering())
    with pytest.raises(SpecError, match="float32: takes no images"):
        export_release(artifact, ExportSpec("baked"), tmp_path / "out", options)
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def brought_back(file: bytes, _feeds: object) -> bytes:
    """Switch the logit of class 3 on, as bad rounding might."""
    model = onnx.load_model_from_string(file)
    for tensor in model.graph.initializer:
        if tensor.name == "fc.bias":
            bias = numpy_helper.to_array(tensor).copy()
            bias[3] = 1e4
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    return bytes(model.SerializeToString())


def test_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits(tmp_path / "artifact", ForgetRequest(classes=(3,)))
    argv = ["export", str(tmp_path / "artifact"), "--mode", "baked", "--max-batch-size", "8"]
    low = [
        *argv,
        "--data",
        "digits",
        "--measure",
        "100",
        "--precision",
        "int8",
        "--calibrate",
        "20",
    ]
    made: list[bytes] = []

    def kept(graph: PlainGraph, *signed: Sequence[TensorRecord]) -> bytes:
        made.append(to_onnx(graph, *signed))
        return made[-1]

    monkeypatch.setattr(releases, "to_onnx", kept)
    for name in ("one", "two"):
        assert main([*low, "--out", str(tmp_path / name), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["precision"], told["forget_acc"], told["forget_acc_float32"]) == ("int8", 0, 0)
    assert told["top1_agreement"] > 0.8
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    record = load_release(tmp_path / "one").record
    assert record.precision is not None
    assert record.precision.calibration_images == 20
    assert main(["verify", str(tmp_path / "one")]) == 0
    monkeypatch.setattr(releases, "to_onnx", lambda *_: made[0])
    monkeypatch.setattr(lowering_module, "to_int8", brought_back)
    bad = ["--out", str(tmp_path / "bad")]
    capsys.readouterr()
    assert main([*low, *bad]) == 4
    assert "int8: a logit differs" in capsys.readouterr().err
    monkeypatch.setitem(TOLERANCES, "int8", 1e9)
    assert main([*low, *bad]) == 4
    assert "int8 brings back what was forgotten" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_images_forgotten_one_by_one_are_asked_about_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_favour_of(c: int) -> bytes:
        model = onnx.parser.parse_model(BAKED)
        bias = np.eye(4, dtype=np.float32)[c]
        for name, value in (("weight", 1e-4 * np.eye(4, 64, dtype=np.float32)), ("bias", bias)):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        return bytes(model.SerializeToString())

    monkeypatch.setitem(TOLERANCES, "int8", 1e9)
    monkeypatch.setattr(lowering_module, "to_int8", lambda _file, _feeds: in_favour_of(1))
    forget = ForgetRecord(classes=[], instances=5, always=[], slots=0, allow_none=False)
    gone = corners(40).of_classes([1]).take(torch.arange(5))
    with pytest.raises(ForgettingLost, match=r"forgotten images rises by 100\.0 points"):
        lowered(in_favour_of(0), INT8, forget, 4, corner_lowering(gone=gone))
    kept = corners(40).of_classes([0])
    _, told = lowered(in_favour_of(0), INT8, forget, 4, corner_lowering(gone=kept))
    assert told is not None
    assert (told.instances_acc, told.instances_acc_float32) == (0, 1)
    assert (told.forget_acc, told.forget_acc_float32) == (None, None)


WRONG: dict[str, tuple[list[str], str]] = {
    "precision": (["--precision", "int4"], "int4"),
    "no data": (["--precision", "int8"], "needs --data"),
    "no data for 16 bits": (["--precision", "fp16"], "needs --data"),
    "calibrated with none": (
        ["--precision", "int8", "--data", "digits", "--calibrate", "0"],
        "calibrate: expected 1 image or more, got 0",
    ),
    "calibrated for nothing": (
        ["--precision", "fp16", "--data", "digits", "--calibrate", "9"],
        "--calibrate: only for --precision int8",
    ),
    "measured on nothing": (["--measure", "5"], "--measure: only with --data"),
    "a rise of nothing": (["--forget-rise", "0.1"], "--forget-rise: only for --precision fp16"),
    "a seed of nothing": (["--data", "digits", "--seed", "1"], "--seed: only for"),
    "a rise that is none": (
        ["--precision", "fp16", "--data", "digits", "--forget-rise", "nan"],
        "expected 0..1, got nan",
    ),
    "other images": (["--precision", "int8", "--data", "digits"], "the model takes"),
}


def test_wrong_requests_are_one_line_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits(tmp_path / "artifact", ForgetRequest(classes=(3,)), size=16)
    argv = ["export", str(tmp_path / "artifact"), "--mode", "baked", "--out", str(tmp_path / "out")]
    for options, said_ in WRONG.values():
        assert main([*argv, *options]) == 2
        told = capsys.readouterr().err
        assert said_ in " ".join(told.split())
        assert told.count("\n") == 1 or "Usage" in told
    assert not (tmp_path / "out").exists()


def test_a_float32_release_like_a_low_one_is_exported_anew(place: Path) -> None:
    artifact = digits(place / "digits", ForgetRequest(classes=(3,)))
    lowering = lowering_of(artifact, "digits", FP16, Draw(most=100))
    own = Options(measure=lowering.measure, lowering=lowering)
    small = export_release(artifact, FP16, place / "small", own)
    assert small.record.precision is not None
    assert small.record.precision.calibration_sha256 is None
    wide = export_release(artifact, ExportSpec("baked"), place / "wide", Options(like=small))
    assert wide.record.precision is None
    model = onnx.load(place / "wide" / "model.onnx")
    assert {t.data_type for t in model.graph.initializer} == {1, 7}
