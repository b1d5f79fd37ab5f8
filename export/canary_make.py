"""The answers by which a file will be known again once it is served."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bandstop.export.canary import feeds
from bandstop.export.canary_record import RECIPE, CanaryRecord
from bandstop.export.errors import ParityFailed
from bandstop.export.precision_record import PrecisionRecord
from bandstop.export.record import ForgetRecord, TensorRecord
from bandstop.export.session import CPU
from bandstop.export.tolerance import two_digits

_ALL_ROWS = 16  # up to so many classes every one is named once
_PLAIN_ROWS = 4  # images for a file whose requests have no say
_DIGITS = 7  # a float32 has no more


def make_canary(
    file: bytes,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
    forget: ForgetRecord,
    tolerance: float,
    precision: PrecisionRecord | None,
) -> CanaryRecord:
    """Return what the finished ONNX `file` answers to the recipe.

    Args:
        file: its bytes.
        inputs: of its graph.
        outputs: of its graph; the logits come first.
        forget: what it forgets, and what a request may name.
        tolerance: of parity; that of a lower precision is taken where it is wider.
        precision: None for float32.

    Raises:
        ParityFailed: a logit is no finite number.
    """
    rows = rows_to_ask(forget, outputs[0].shape[0])
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 1  # the same digits however many threads are free
    runs = ort.InferenceSession(file, options, providers=[CPU])
    logits = np.asarray(runs.run([outputs[0].name], feeds(inputs, rows))[0])
    if not np.isfinite(logits).all():
        raise ParityFailed("canary: a logit is not finite; expected numbers; nothing was written")
    if precision is not None:
        tolerance = max(tolerance, two_digits(precision.tolerance * precision.spread))
    return CanaryRecord(
        recipe=RECIPE,
        forget=[list(row) for row in rows],
        logits=[[float(f"{x:.{_DIGITS}g}") for x in row] for row in logits.tolist()],
        tolerance=tolerance,
        spread=two_digits(_spread(logits)),
    )


def rows_to_ask(forget: ForgetRecord, num_classes: int) -> list[tuple[int, ...]]:
    """Return the classes that each row names: all, or a few of many; together; none."""
    slots = forget.slots
    if not slots:
        return [()] * _PLAIN_ROWS
    middle = num_classes // 2
    many = num_classes > _ALL_ROWS
    singles = [0, middle, num_classes - 1] if many else list(range(num_classes))
    rows = [(c,) * slots for c in singles]
    if slots > 1:
        mixed = tuple((middle + i) % num_classes for i in range(slots))
        rows = [rows[0], rows[-1], mixed] if many else [*rows, mixed]
    if forget.allow_none:
        rows.append((num_classes,) * slots)
    return list(dict.fromkeys(rows))


def _spread(logits: NDArray[np.floating]) -> float:
    return float((logits.max(axis=0) - logits.min(axis=0)).max())
