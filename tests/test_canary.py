"""The canary: the same pixels everywhere, and answers that tell one edit from another."""

import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from bandstop.edit.artifact import Artifact
from bandstop.export.canary import COARSE, feeds, pixels
from bandstop.export.canary_make import make_canary, rows_to_ask
from bandstop.export.canary_record import RECIPE, CanaryRecord
from bandstop.export.errors import ParityFailed, ReleaseError
from bandstop.export.precision_record import PrecisionRecord
from bandstop.export.record import ForgetRecord, ReleaseRecord, TensorRecord
from bandstop.export.record_files import read_record
from bandstop.export.release import Options, export_release
from bandstop.export.session import CPU
from bandstop.export.spec import ExportSpec
from bandstop.export.verify import verify
from tests.readback_fakes import made, write_release
from tests.releases import gates_artifact, record, weights_artifact
from tests.whole_releases import graph

REPOSITORY = Path(__file__).resolve().parents[1] / "triton_repo"
IMAGE = TensorRecord(name="image", dtype="FP32", shape=[1, 8, 8])
BYTES = TensorRecord(name="image", dtype="UINT8", shape=[4, 5, 3])


EVER = "a881036fdee9b9de6c83f48d9375148394478517048a063e25ee40c4605f93e6"

# --- pixels


def test_the_recipe_is_fixed_for_ever() -> None:
    """A release that was made with it years ago must still be checked with the same pixels."""
    many = b"".join(
        pixels(row, *shape).tobytes() for row in (0, 1, 7) for shape in [(1, 8, 8), (3, 5, 9)]
    )
    assert hashlib.sha256(many).hexdigest() == EVER
    assert pixels(0, 1, 2, 3).tolist() == [[[0, 255, 255], [106, 255, 255]]]


def test_pixels_are_the_recipe_spelled_out() -> None:
    channels, height, width, row = 2, 6, 7, 3
    size = COARSE**2 + height * width
    stream = b"".join(
        hashlib.sha256(f"bandstop-canary/1 {row} {i}".encode()).digest() for i in range(9)
    )
    found = pixels(row, channels, height, width)
    for c in range(channels):
        plane = stream[c * size : (c + 1) * size]
        for y in range(height):
            for x in range(width):
                # in 1024ths of a coarse pixel
                v, h = y * 4096 // (height - 1), x * 4096 // (width - 1)
                i, j = min(v // 1024, 3), min(h // 1024, 3)
                v, h = v - i * 1024, h - j * 1024
                corner = [plane[5 * (i + a) + j + b] for a in (0, 1) for b in (0, 1)]
                weight = [(1024 - v) * (1024 - h), (1024 - v) * h, v * (1024 - h), v * h]
                picture = sum(p * w for p, w in zip(corner, weight, strict=True)) // 1024**2
                noise = plane[25 + y * width + x]
                assert found[c, y, x] == max(0, min(255, 2 * picture + noise - 255))


def test_rows_and_channels_differ_and_use_the_whole_range() -> None:
    images = np.stack([pixels(row, 3, 32, 32) for row in range(4)])
    planes = images.reshape(12, -1).astype(float)
    assert np.abs(np.corrcoef(planes) - np.eye(12)).max() < 0.8
    assert (planes.std(axis=1) > 40).all()
    assert (images.min(), images.max()) == (0, 255)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 9), (1, 2, 2), (4, 300, 2)])
def test_every_size_has_pixels(shape: tuple[int, int, int]) -> None:
    assert pixels(5, *shape).shape == shape


def test_both_inputs_show_the_same_pixels() -> None:
    (whole,) = feeds([BYTES], [(), ()]).values()
    assert (whole.dtype.name, whole.shape) == ("uint8", (2, 4, 5, 3))
    plain = TensorRecord(name="image", dtype="FP32", shape=[3, 4, 5])
    (parts,) = feeds([plain], [(), ()]).values()
    assert (parts.dtype.name, parts.shape) == ("float32", (2, 3, 4, 5))
    assert np.array_equal(parts, whole.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
    assert np.array_equal(whole[1].transpose(2, 0, 1), pixels(1, 3, 4, 5))


# --- rows


def _forget(slots: int, *, allow_none: bool = False) -> ForgetRecord:
    return ForgetRecord(classes=[], instances=0, always=[], slots=slots, allow_none=allow_none)


@pytest.mark.parametrize(
    ("slots", "allow_none", "classes", "expected"),
    [
        (0, False, 10, [()] * 4),
        (1, False, 3, [(0,), (1,), (2,)]),
        (1, True, 3, [(0,), (1,), (2,), (3,)]),
        (2, False, 3, [(0, 0), (1, 1), (2, 2), (1, 2)]),
        (2, True, 2, [(0, 0), (1, 1), (1, 0), (2, 2)]),
        (1, False, 1000, [(0,), (500,), (999,)]),
        (1, True, 1000, [(0,), (500,), (999,), (1000,)]),
        (3, True, 1000, [(0, 0, 0), (999, 999, 999), (500, 501, 502), (1000,) * 3]),
    ],
)
def test_rows_reach_from_the_first_class_to_none(
    slots: int, allow_none: bool, classes: int, expected: list[tuple[int, ...]]
) -> None:
    assert rows_to_ask(_forget(slots, allow_none=allow_none), classes) == expected


# --- what is recorded


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary")


@pytest.fixture(scope="module")
def gates(place: Path) -> Artifact:
    return gates_artifact(place / "gates")


def _answers(folder: Path, facts: ReleaseRecord) -> NDArray[np.float32]:
    runs = ort.InferenceSession((folder / "model.onnx").read_bytes(), providers=[CPU])
    assert facts.canary is not None
    logits: NDArray[np.float32] = runs.run(["logits"], feeds(facts.inputs, facts.canary.forget))[0]
    return logits


SPECS = {
    "gated": ExportSpec("gated", max_batch_size=8),
    "two slots and none": ExportSpec("gated", forget_slots=2, allow_none=True, max_batch_size=8),
    "baked": ExportSpec("baked", forget=(1,), input="uint8", max_batch_size=8),
}


@pytest.mark.parametrize("case", SPECS)
def test_an_exported_file_answers_as_recorded(case: str, gates: Artifact, place: Path) -> None:
    out = place / f"of {case}"
    facts = export_release(gates, SPECS[case], out).record
    assert facts.canary is not None
    assert facts.canary.recipe == RECIPE == "bandstop-canary/1"
    assert facts.canary.tolerance == facts.parity.tolerance
    assert facts.canary.tells_apart
    assert facts.canary.forget == [list(r) for r in rows_to_ask(facts.forget, 4)]
    recorded = np.array(facts.canary.logits)
    assert recorded == pytest.approx(_answers(out, facts), rel=1e-6)
    assert all(x == float(f"{x:.7g}") for x in recorded.ravel().tolist())
    assert read_record(out / "release.json").canary == facts.canary


def test_the_same_file_gives_the_same_record_on_any_number_of_threads() -> None:
    facts = record()
    file = made().file
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        found.append(make_canary(file, facts.inputs, facts.outputs, facts.forget, 1e-4, None))
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def _apart(one: ReleaseRecord, two: ReleaseRecord) -> float:
    assert one.canary is not None
    assert two.canary is not None
    gaps = np.abs(np.array(one.canary.logits) - np.array(two.canary.logits))
    return float(gaps.max(axis=1).min() / one.canary.tolerance)


def test_two_edits_of_one_network_are_told_apart(gates: Artifact, place: Path) -> None:
    zero = export_release(gates, ExportSpec("baked", forget=(0,)), place / "edit 0")
    quick = Options(like=zero)
    one = export_release(gates, ExportSpec("baked", forget=(1,)), place / "edit 1", quick)
    artifact = weights_artifact(place / "weights")
    other = export_release(artifact, ExportSpec("baked"), place / "edit 2", quick)
    records = [zero.record, one.record, other.record]
    for first, second in combinations(records, 2):
        assert _apart(first, second) > 100


def test_the_models_that_are_checked_in_would_be_told_from_their_own_slight_changes() -> None:
    """The last layer's weights a thousandth larger: an edit as small as any."""
    for name in ("digits_baked", "digits_gated"):
        folder = REPOSITORY / name / "1"
        facts = read_record(folder / "release.json")
        model = onnx.load(folder / "model.onnx")
        assert facts.canary is None  # from before there was any
        before = _make(model, facts)
        weight = max(
            (t for t in model.graph.initializer if t.dims and t.dims[0] == 10 and len(t.dims) == 2),
            key=lambda t: t.dims[1],
        )
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.001)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        after = _make(model, facts)
        assert before.spread > 0.5
        assert np.abs(np.array(before.logits) - np.array(after.logits)).max() > before.tolerance


def _make(model: onnx.ModelProto, facts: ReleaseRecord) -> CanaryRecord:
    file = model.SerializeToString()
    return make_canary(file, facts.inputs, facts.outputs, facts.forget, 1e-4, None)


def test_a_network_that_always_answers_the_same_is_said_to_tell_nothing() -> None:
    facts = record(mode="baked")
    model = graph("baked", weight=0.0)
    canary = _make(model, facts)
    assert canary.spread == 0
    assert not canary.tells_apart


def test_a_logit_that_is_no_number_is_refused() -> None:
    facts = record(mode="baked")
    with pytest.raises(ParityFailed, match="canary: a logit is not finite") as caught:
        _make(graph("baked", weight=np.inf), facts)
    assert caught.value.exit_code == 4


def test_a_lower_precision_is_compared_as_it_was_judged() -> None:
    facts = record(mode="baked")
    precision = PrecisionRecord.model_construct(tolerance=0.05, spread=2.0)
    file = graph("baked").SerializeToString()
    found = make_canary(file, facts.inputs, facts.outputs, facts.forget, 1e-4, precision)
    assert found.tolerance == 0.1
    fine = PrecisionRecord.model_construct(tolerance=0.005, spread=0.001)
    found = make_canary(file, facts.inputs, facts.outputs, facts.forget, 1e-4, fine)
    assert found.tolerance == 1e-4


def test_a_record_stays_small_for_a_thousand_classes() -> None:
    names = tuple(map(str, range(1000)))
    rows = rows_to_ask(record(names=names).forget, 1000)
    assert len(rows) * 1000 <= 4000


# --- what is read


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forget": [[0]]}, "1 rows are asked, 2 answered"),
        ({"forget": [[0], []]}, "forget: rows of different length"),
        ({"logits": [[0.5], [0.5, 1.0]]}, "logits: rows of different length"),
        ({"logits": []}, "logits"),
        ({"logits": [["NaN"], ["NaN"]]}, "logits"),
        ({"recipe": "bandstop-canary/2"}, "recipe"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"more": 1}, "more"),
    ],
)
def test_a_record_that_does_not_fit_itself_is_refused(
    changes: dict[str, object], said: str
) -> None:
    plain = {
        "recipe": RECIPE,
        "forget": [[0], [1]],
        "logits": [[0.5, 1.0], [0.25, -10000.0]],
        "tolerance": 1e-4,
        "spread": 0.25,
    }
    assert CanaryRecord.model_validate_json(json.dumps(plain)).logits[1] == [0.25, -1e4]
    with pytest.raises(ValidationError, match=said):
        CanaryRecord.model_validate_json(json.dumps({**plain, **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forget": [[]] * 4}, "canary: rows that do not name 1 classes each"),
        ({"forget": [[0], [1], [2], [2**70]]}, "canary: a row names a class out of 0..4"),
        ({"forget": [[0], [1], [2], [-1]]}, "canary: a row names a class out of 0..4"),
        ({"logits": [[0.5]] * 4}, "canary: rows that do not have 4 logits each"),
    ],
)
def test_a_canary_of_another_file_is_refused_when_a_release_is_read(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    folder = write_release(tmp_path / "release", made())
    plain = json.loads((folder / "release.json").read_text())
    plain["canary"] |= changes
    (folder / "release.json").write_text(json.dumps(plain))
    with pytest.raises(ReleaseError, match=said):
        read_record(folder / "release.json")


@pytest.mark.parametrize("name", ["digits_baked", "digits_gated"])
def test_releases_from_before_still_verify(name: str) -> None:
    report = verify(REPOSITORY / name / "1")
    assert list(report.misfits) == []


def test_a_release_with_a_canary_verifies(tmp_path: Path) -> None:
    report = verify(write_release(tmp_path / "release", made("baked")))
    assert list(report.misfits) == []
