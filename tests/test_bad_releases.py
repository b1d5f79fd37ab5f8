"""Bad release records: whatever a field says, it is told in a line and never a traceback."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import JsonValue, ValidationError

from bandstop.export.canary_record import CanaryRecord
from bandstop.export.config import config_text
from bandstop.export.errors import ExportError
from bandstop.export.measure_record import MeasuredRecord
from bandstop.export.precision_record import PrecisionRecord
from bandstop.export.record import ReleaseRecord
from bandstop.export.verify import verify
from tests.releases import record
from tests.whole_releases import whole_release

Path_ = tuple[str | int, ...]
MODES = ("baked", "gated")
WRONG: list[JsonValue] = [None, True, -1, 0, 2**31, 2**63, 2**70, 0.5, 1e308, "", "x", []]
WRONG += [[[]], [2**70], {}, {"x": 2**70}]


def whole(mode: str, release: Path | None = None) -> dict[str, JsonValue]:
    """Return a release record that has every part it can have, of the files in `release`."""
    plain = record(mode=mode).model_dump(mode="json")
    if release is not None:
        plain = json.loads((release / "release.json").read_bytes())
    slots = int(mode == "gated")
    measured = MeasuredRecord(
        forget_acc=0.0,
        worst_forget_acc=0.0,
        retain_acc=0.9,
        rows=4 if slots else 1,
        rows_total=4 if slots else 1,
        forget_images=10,
        retain_images=30,
        images=40,
        images_total=40,
        data="digits",
        data_sha256="c" * 64,
    )
    precision = PrecisionRecord(
        kind="int8",
        tolerance=0.05,
        spread=1.0,
        mean_abs=0.01,
        max_abs=0.1,
        top1_agreement=1.0,
        compared=40,
        forget_acc=0.0,
        forget_acc_float32=0.0,
        row_rise=0.0,
        instances_acc=None,
        instances_acc_float32=None,
        most_rise=0.01,
        retain_acc=0.9,
        retain_acc_float32=0.9,
        refused=5,
        calibration_images=128,
        calibration_sha256="d" * 64,
    )
    canary = CanaryRecord(
        recipe="bandstop-canary/1",
        forget=[[0] * slots, [1] * slots],
        logits=[[0.0, 1.0, 2.0, 3.0]] * 2,
        tolerance=1e-4,
        spread=1.0,
    )
    parts = {"measured": measured, "precision": precision, "canary": canary}
    return {**plain, **{name: part.model_dump(mode="json") for name, part in parts.items()}}


def places(value: JsonValue, path: Path_ = ()) -> Iterator[Path_]:
    """Yield where each part of `value` lies, from the whole to the single number."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def replaced(value: JsonValue, path: Path_, new: JsonValue) -> JsonValue:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, dict):
        return {**value, str(first): replaced(value[str(first)], tuple(rest), new)}
    assert isinstance(value, list)
    return [replaced(value[0], tuple(rest), new), *value[1:]]


def test_the_record_that_they_are_made_of_is_one() -> None:
    for mode in MODES:
        assert len(list(places(whole(mode)))) > 90
        ReleaseRecord.model_validate_json(json.dumps(whole(mode)))


@pytest.mark.parametrize("mode", MODES)
def test_whatever_a_field_says_nothing_but_our_own_errors_come(tmp_path: Path, mode: str) -> None:
    release = whole_release(tmp_path / "release", mode)
    good = whole(mode, release)
    for path in places(good):
        for wrong in WRONG:
            content = json.dumps(replaced(good, path, wrong))
            (release / "release.json").write_text(content)
            try:
                told = list(verify(release).misfits)
            except ExportError as error:
                told = [("error", str(error))]
            assert not any("\n" in line for _, line in told), (path, wrong)


FIELDS: dict[str, tuple[str, Path_, JsonValue]] = {
    "no outputs": ("baked", ("outputs",), []),
    "logits of no shape": ("baked", ("outputs", 0, "shape"), []),
    "logits of no class": ("baked", ("outputs", 0, "shape"), [0]),
    "logits of 2^63 classes": ("baked", ("outputs", 0, "shape"), [2**63]),
    "batches of 2^31": ("gated", ("max_batch_size",), 2**31),
    "2^31 instances": ("gated", ("serving", "instances"), 2**31),
    "2^31 threads": ("gated", ("serving", "intra_op_threads"), 2**31),
    "a queue of 2^63": ("gated", ("serving", "max_queue_size"), 2**63),
    "a delay of 2^70": ("gated", ("serving", "queue_delay_us"), 2**70),
    "a wait of 2^70": ("gated", ("serving", "queue_timeout_us"), 2**70),
    "-1 instances forgotten": ("baked", ("forget", "instances"), -1),
    "a tolerance without end": ("baked", ("parity", "tolerance"), 1e308),
    "a parity that failed": ("baked", ("parity", "max_abs"), 2e-4),
    "pixels in another order": ("baked", ("preprocess", "order"), "BGR"),
    "colours of a grey image": ("baked", ("preprocess", "order"), "RGB"),
    "a mean that is none": ("baked", ("preprocess", "mean"), [float("nan")]),
    "two channels": ("baked", ("preprocess", "channels"), 2),
}


@pytest.mark.parametrize("case", FIELDS)
def test_a_field_out_of_bounds_is_named(case: str) -> None:
    mode, path, wrong = FIELDS[case]
    content = json.dumps(replaced(whole(mode), path, wrong))
    with pytest.raises(ValidationError) as caught:
        ReleaseRecord.model_validate_json(content)
    where = caught.value.errors()[0]["loc"]
    assert path[: len(where)] == where[: len(path)]


def test_a_key_neither_breaks_a_line_nor_reaches_the_terminal(tmp_path: Path) -> None:
    release = whole_release(tmp_path / "release")
    key = "\x1b[2Jall good\n" + "x" * 9999
    (release / "release.json").write_text(json.dumps({**whole("baked", release), key: 1}))
    ((_, told),) = verify(release).misfits
    assert r"\x1b[2Jall good\n" in told
    assert told.isprintable()
    assert len(told) < 1000


def test_a_record_from_before_the_order_was_told_makes_the_same_config() -> None:
    plain = record()
    assert plain.preprocess.order is None
    assert "order" not in config_text("digits", {1: plain})
    told = plain.preprocess.model_copy(update={"order": "L"})
    newer = plain.model_copy(update={"preprocess": told})
    assert '\\"order\\": \\"L\\"' in config_text("digits", {1: newer})
