"""Whether a file refuses what is out of range: its row alone, and nothing beside it."""

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
import onnxruntime as ort
from torch import Tensor

from bandstop.export.errors import ParityFailed
from bandstop.export.parity_asks import Ask, feeds_of
from bandstop.export.spec import ExportSpec


def check_refusals(
    runs: ort.InferenceSession,
    asks: Sequence[Ask],
    images: Tensor,
    spec: ExportSpec,
    num_classes: int,
) -> int:
    """Return how many out-of-range requests were refused, their neighbours bit for bit as ever.

    Raises:
        ParityFailed: one was not.
    """
    batch = list(islice(cycle(asks), 7))
    at, slots = 3, spec.forget_slots
    first_bad = num_classes + spec.allow_none
    count = 0
    for slot in {0, slots - 1}:
        fine = [*batch[at].rows[:slot], 0, *batch[at].rows[slot + 1 :]]
        with_zero = [*batch[:at], Ask(tuple(fine), batch[at].image), *batch[at + 1 :]]
        wanted, wanted_echo = runs.run(None, feeds_of(with_zero, images, spec))
        wanted[at], wanted_echo[at] = np.nan, -1
        for bad in (-1, first_bad, 2**31, 2**62, -(2**63)):
            feeds = feeds_of(with_zero, images, spec)
            feeds["forget_class"][at, slot] = bad
            logits, echo = runs.run(None, feeds)
            if not np.array_equal(logits, wanted, equal_nan=True) or (echo != wanted_echo).any():
                raise ParityFailed(
                    f"parity: index {bad} in slot {slot}: expected its row refused (NaN, -1) and "
                    "its neighbours as before; nothing was written"
                )
            count += 1
    return count
