"""What a file is asked, to compare it with PyTorch: rows, images, batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bandstop.export.spec import ExportSpec

_ALL_ROWS = 100  # up to so many classes every row is checked
_PAIRS = 400  # of row and image; two images a row at least


@dataclass(frozen=True, slots=True)
class Ask:
    """One sample of a batch: which rows it names (none where the graph takes none), which image."""

    rows: tuple[int, ...]
    image: int


def all_rows(spec: ExportSpec, num_classes: int) -> range:
    """Return the rows that a request can name; one where it names none."""
    if spec.mode != "gated":
        return range(1)
    return range(num_classes + spec.allow_none)


def rows_to_check(spec: ExportSpec, num_classes: int) -> list[int]:
    """Return all rows, or an even sample with the first and the last where they are many."""
    rows = all_rows(spec, num_classes)
    if len(rows) <= _ALL_ROWS + 1:  # the row of nothing comes on top
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (_ALL_ROWS - 1))] for i in range(_ALL_ROWS)]


def asks_for(rows: Sequence[int], spec: ExportSpec, num_classes: int, images: int) -> list[Ask]:
    """Return what to ask for, ordered so that neighbours name different rows."""
    if spec.mode != "gated":
        return [Ask((), i) for i in range(images)]
    slots = spec.forget_slots
    chosen = [(row,) * slots for row in rows]
    if slots > 1:
        chosen += _combinations(rows, slots)
    per_row = min(images, max(2, _PAIRS // len(chosen)))
    return [Ask(row, (i + j) % images) for j in range(per_row) for i, row in enumerate(chosen)]


def _combinations(rows: Sequence[int], slots: int) -> list[tuple[int, ...]]:
    """Return different rows together, and the same again the other way round."""
    wheel = list(rows) * 2
    step = max(1, len(rows) // 8)
    forward = [tuple(wheel[i : i + slots]) for i in range(0, len(rows), step)]
    return forward + [together[::-1] for together in forward]


def batches(asks: Sequence[Ask], sizes: Sequence[int]) -> Iterator[list[Ask]]:
    """Yield batches of the given sizes, then of the last size until every ask has been in one."""
    stream, left = cycle(asks), len(asks)
    for size in sizes:
        yield list(islice(stream, size))
        left -= size
    while left > 0:
        yield list(islice(stream, min(left, sizes[-1])))
        left -= sizes[-1]


def feeds_of(
    batch: Sequence[Ask], images: Tensor, spec: ExportSpec
) -> dict[str, npt.NDArray[np.generic]]:
    """Return what a graph of `spec` takes for `batch`; `images` are float32 in [0, 1]."""
    image = images[[ask.image for ask in batch]]
    if spec.input == "uint8":
        image = (image * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    feeds = {"image": np.ascontiguousarray(image.cpu().numpy())}
    if spec.mode == "gated":
        feeds["forget_class"] = np.array([ask.rows for ask in batch], dtype=np.int64)
    return feeds
