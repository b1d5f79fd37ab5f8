"""Whether ONNX Runtime computes from a file what PyTorch computes with literally masked weights."""

import logging
import math
from collections.abc import Sequence
from itertools import pairwise

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
from bandstop.export.parity_asks import Ask, all_rows, asks_for, batches, feeds_of, rows_to_check
from bandstop.export.parity_record import ParityRecord
from bandstop.export.parity_refusals import check_refusals
from bandstop.export.session import providers, session
from bandstop.export.spec import ExportSpec
from bandstop.export.tolerance import allowed

_NOISE_IMAGES = 8
MOST_SAMPLES = 64  # of the caller's images
_OTHER_BATCHES = (1, 2, 7)

log = logging.getLogger(__name__)

Logits = npt.NDArray[np.float32]


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
    rows = rows_to_check(spec, model.num_classes)
    asks = asks_for(rows, spec, model.num_classes, len(images))
    expected = _expected(asks, model, gates, spec, images)
    groups = list(batches(asks, (len(rows), *_OTHER_BATCHES, spec.max_batch_size)))
    worst, refused = 0.0, 0
    sessions = _sessions(file)
    for runs in sessions.values():
        worst = max(worst, *(_compare(runs, batch, expected, images, spec) for batch in groups))
        if spec.mode == "gated":
            refused = check_refusals(runs, asks, images, spec, model.num_classes)
    return ParityRecord(
        max_abs=worst,
        tolerance=allowed(spec),
        rows=len(rows),
        rows_total=len(all_rows(spec, model.num_classes)),
        combinations=len({ask.rows for ask in asks}) - len(rows),
        row_gap=_row_gap(expected),
        images=len({ask.image for ask in asks}),
        compared=len(asks),
        batches=sorted({len(batch) for batch in groups}),
        refused=refused,
        providers=list(sessions),
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


def _sessions(file: bytes) -> dict[str, ort.InferenceSession]:
    """Return provider -> session of `file`, for those of this machine that can be loaded."""
    sessions = {}
    for provider in providers():
        runs = session(file, provider)
        if provider in runs.get_providers():
            sessions[provider] = runs
        else:
            log.warning("parity: ONNX Runtime cannot load %s here; not checked on it", provider)
    return sessions


def _images(model: Classifier, spec: ExportSpec, samples: Tensor | None) -> Tensor:
    """Return images (n, c, h, w) float32 in [0, 1] that survive a trip through `spec.input`."""
    images = example(model, _NOISE_IMAGES)
    if samples is not None:
        given = samples[:MOST_SAMPLES]
        given = given.float() / 255 if given.dtype == torch.uint8 else given
        images = torch.cat([images, given.to(images)])  # noise first: of gates not all are asked
    return (images * 255).round() / 255 if spec.input == "uint8" else images


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


def _compare(
    runs: ort.InferenceSession,
    batch: Sequence[Ask],
    expected: dict[Ask, Logits],
    images: Tensor,
    spec: ExportSpec,
) -> float:
    logits, *echo = runs.run(None, feeds_of(batch, images, spec))
    if echo and not np.array_equal(echo[0], np.array([ask.rows for ask in batch])):
        raise ParityFailed(
            f"parity: asked for {[ask.rows for ask in batch]}, the graph says that it applied "
            f"{echo[0].tolist()}; nothing was written"
        )
    gap = np.abs(logits - np.stack([expected[ask] for ask in batch])).max(axis=1)  # (n,)
    gap = np.where(np.isnan(gap), np.inf, gap)
    at = int(gap.argmax())
    if gap[at] > allowed(spec):
        row = f"forget_class {list(batch[at].rows)}, " if spec.mode == "gated" else ""
        raise ParityFailed(
            f"parity: {row}image {batch[at].image} in a batch of {len(batch)} on "
            f"{runs.get_providers()[0]}: a logit differs by {gap[at]:.3g}, expected "
            f"<= {allowed(spec):g}; the ONNX graph does not compute what PyTorch computes "
            "with masked weights; nothing was written"
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
