"""Whether ONNX Runtime computes from a file what PyTorch computes with literally masked weights."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor
from torch.func import functional_call

from bandstop.edit.batchnorm import example
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.export.errors import ParityFailed
from bandstop.export.record import ParityRecord
from bandstop.export.session import session
from bandstop.export.spec import ExportSpec

TOLERANCE = 1e-4  # absolute, on logits
_ALL_ROWS = 100  # up to so many classes every row is checked
_PAIRS = 400  # of row and image; two images a row at least
_NOISE_IMAGES = 8
_MOST_SAMPLES = 64  # of the caller's images
_OTHER_BATCHES = (1, 2, 7)

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ask:
    """One sample of a batch: which rows it names (none where the graph takes none), which image."""

    rows: tuple[int, ...]
    image: int


def check_parity(
    file: bytes, model: Classifier, gates: GateEdit | None, spec: ExportSpec, samples: Tensor | None
) -> ParityRecord:
    """Return how closely the ONNX `file` computes `model` under `gates` as `spec` asks.

    Args:
        file: the bytes of the ONNX file.
        model: the network before anything was masked.
        gates: its masks, where it has any.
        spec: what was exported.
        samples: images of the user (n, c, h, w), uint8 or float32 in [0, 1]; noise is added.

    Raises:
        ParityFailed: a logit differs by more than the tolerance, an echo is wrong, or an index out
            of range was not refused row by row.
    """
    images = _images(model, spec, samples)
    runs = session(file)
    rows = rows_to_check(spec, model.num_classes)
    asks = _asks(rows, spec, model.num_classes, len(images))
    expected = _expected(asks, model, gates, spec, images)
    worst = 0.0
    sizes = set()
    for batch in _batches(asks, (len(rows), *_OTHER_BATCHES, spec.max_batch_size)):
        sizes.add(len(batch))
        worst = max(worst, _compare(runs, batch, expected, images, spec))
    refused = 0
    if spec.mode == "gated":
        refused = _check_refusals(runs, asks, images, spec, model.num_classes)
    return ParityRecord(
        max_abs=worst,
        tolerance=TOLERANCE,
        rows=len(rows),
        rows_total=len(_all_rows(spec, model.num_classes)),
        combinations=len({ask.rows for ask in asks}) - len(rows),
        row_gap=_row_gap(expected),
        images=len(images),
        compared=len(asks),
        batches=sorted(sizes),
        refused=refused,
    )


def masked_logits(
    model: Classifier, gates: GateEdit | None, forget: Sequence[int], images: Tensor
) -> Tensor:
    """Return the logits (n, num_classes) of `images` with the gates of `forget` in the weights."""
    if gates is None or not forget:
        with torch.no_grad():
            plain: Tensor = model(images)
        return plain
    state = fold(model.network.state_dict(), gates, forget)
    with torch.no_grad():
        masked = {f"network.{name}": value for name, value in state.items()}
        logits: Tensor = functional_call(model, masked, (images,))
    return logits


def _images(model: Classifier, spec: ExportSpec, samples: Tensor | None) -> Tensor:
    """Return images (n, c, h, w) float32 in [0, 1] that survive a trip through `spec.input`."""
    images = example(model, _NOISE_IMAGES)
    if samples is not None:
        given = samples[:_MOST_SAMPLES]
        given = given.float() / 255 if given.dtype == torch.uint8 else given
        images = torch.cat([given.to(images), images])
    return (images * 255).round() / 255 if spec.input == "uint8" else images


def _all_rows(spec: ExportSpec, num_classes: int) -> range:
    if spec.mode != "gated":
        return range(1)
    return range(num_classes + spec.allow_none)


def rows_to_check(spec: ExportSpec, num_classes: int) -> list[int]:
    """Return all rows, or an even sample with the first and the last where they are many."""
    rows = _all_rows(spec, num_classes)
    if len(rows) <= _ALL_ROWS + 1:  # the row of nothing comes on top
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (_ALL_ROWS - 1))] for i in range(_ALL_ROWS)]


def _asks(rows: Sequence[int], spec: ExportSpec, num_classes: int, images: int) -> list[Ask]:
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


def _expected(
    asks: Sequence[Ask],
    model: Classifier,
    gates: GateEdit | None,
    spec: ExportSpec,
    images: Tensor,
) -> dict[Ask, Logits]:
    wanted: dict[tuple[int, ...], list[Ask]] = {}
    for ask in asks:
        named = {row for row in ask.rows if row < model.num_classes}
        forget = tuple(sorted(named | set(spec.always_forget) | set(spec.forget)))
        wanted.setdefault(forget, []).append(ask)
    expected: dict[Ask, Logits] = {}
    for forget, group in wanted.items():
        logits = masked_logits(model, gates, forget, images[[ask.image for ask in group]])
        expected.update(zip(group, logits.cpu().numpy(), strict=True))
    return expected


def _batches(asks: Sequence[Ask], sizes: Sequence[int]) -> Iterator[list[Ask]]:
    """Yield batches of the given sizes, then of the last size until every ask has been in one."""
    stream, left = cycle(asks), len(asks)
    for size in sizes:
        yield list(islice(stream, size))
        left -= size
    while left > 0:
        yield list(islice(stream, min(left, sizes[-1])))
        left -= sizes[-1]


def _compare(
    runs: ort.InferenceSession,
    batch: Sequence[Ask],
    expected: dict[Ask, Logits],
    images: Tensor,
    spec: ExportSpec,
) -> float:
    logits, *echo = runs.run(None, _feeds(batch, images, spec))
    if echo and not np.array_equal(echo[0], np.array([ask.rows for ask in batch])):
        raise ParityFailed(
            f"parity: asked for {[ask.rows for ask in batch]}, the graph says that it applied "
            f"{echo[0].tolist()}; nothing was written"
        )
    gap = np.abs(logits - np.stack([expected[ask] for ask in batch])).max(axis=1)  # (n,)
    gap = np.where(np.isnan(gap), np.inf, gap)
    at = int(gap.argmax())
    if gap[at] > TOLERANCE:
        row = f"forget_class {list(batch[at].rows)}, " if spec.mode == "gated" else ""
        raise ParityFailed(
            f"parity: {row}image {batch[at].image} in a batch of {len(batch)}: a logit differs by "
            f"{gap[at]:.3g}, expected <= {TOLERANCE:g}; the ONNX graph does not compute what "
            "PyTorch computes with masked weights; nothing was written"
        )
    return float(gap[at])


def _row_gap(expected: dict[Ask, Logits]) -> float | None:
    """Return the smallest difference that taking a neighbour's row would make, if there is one."""
    by_row: dict[tuple[int, ...], dict[int, Logits]] = {}
    for ask, logits in expected.items():
        by_row.setdefault(ask.rows, {})[ask.image] = logits
    gaps = [
        max((float(np.abs(a[i] - b[i]).max()) for i in a.keys() & b.keys()), default=math.inf)
        for a, b in pairwise([by_row[row] for row in sorted(by_row) if len(set(row)) == 1])
    ]
    return min(gaps, default=None)


def _check_refusals(
    runs: ort.InferenceSession,
    asks: Sequence[Ask],
    images: Tensor,
    spec: ExportSpec,
    num_classes: int,
) -> int:
    """Return how many out-of-range requests were refused, their neighbours bit for bit as ever."""
    batch = list(islice(cycle(asks), 7))
    at, slots = 3, spec.forget_slots
    first_bad = num_classes + spec.allow_none
    count = 0
    for slot in {0, slots - 1}:
        fine = [*batch[at].rows[:slot], 0, *batch[at].rows[slot + 1 :]]
        with_zero = [*batch[:at], Ask(tuple(fine), batch[at].image), *batch[at + 1 :]]
        wanted, wanted_echo = runs.run(None, _feeds(with_zero, images, spec))
        wanted[at], wanted_echo[at] = np.nan, -1
        for bad in (-1, first_bad, 2**31, 2**62, -(2**63)):
            feeds = _feeds(with_zero, images, spec)
            feeds["forget_class"][at, slot] = bad
            logits, echo = runs.run(None, feeds)
            if not np.array_equal(logits, wanted, equal_nan=True) or (echo != wanted_echo).any():
                raise ParityFailed(
                    f"parity: index {bad} in slot {slot}: expected its row refused (NaN, -1) and "
                    "its neighbours as before; nothing was written"
                )
            count += 1
    return count


def _feeds(
    batch: Sequence[Ask], images: Tensor, spec: ExportSpec
) -> dict[str, npt.NDArray[np.generic]]:
    image = images[[ask.image for ask in batch]]
    if spec.input == "uint8":
        image = (image * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    feeds = {"image": np.ascontiguousarray(image.cpu().numpy())}
    if spec.mode == "gated":
        feeds["forget_class"] = np.array([ask.rows for ask in batch], dtype=np.int64)
    return feeds
