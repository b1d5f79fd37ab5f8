"""What an ONNX file is asked to measure it, of what it forgets and of the rest; and its answers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor

from bandstop.edit.images import ImageSet
from bandstop.edit.progress import progress
from bandstop.edit.seeds import seeded
from bandstop.export.parity_asks import rows_to_check
from bandstop.export.record import ForgetRecord
from bandstop.export.session import session
from bandstop.export.spec import ExportSpec

MOST = 2_000  # answers; seconds on a small network, a minute on a ResNet-18 at 32 pixels
DIGITS = 4  # of an accuracy
_BATCH = 64
NO_ROW = -1


@dataclass(frozen=True, slots=True)
class Asks:
    """What a file is asked, in the order of the images, so that neighbours name different rows.

    Attributes:
        position: (n,) int64, of an image in its set.
        row: (n,) int64, the class that the request names; -1 where requests name none.
        forgotten: (n,) bool, whether the image is of what that row forgets.
    """

    position: Tensor
    row: Tensor
    forgotten: Tensor


def measured_rows(forget: ForgetRecord, num_classes: int) -> list[int]:
    """Return the rows to ask: all, or an even sample with the first and the last; [-1] for none."""
    if not forget.slots:
        return [NO_ROW]
    return rows_to_check(ExportSpec("gated"), num_classes)


def asks_of(
    labels: Tensor, forget: ForgetRecord, rows: Sequence[int], most: int | None = MOST
) -> Asks:
    """Return what to ask of images with these `labels` (n,).

    Args:
        labels: the class of each image.
        forget: what the file forgets whatever is asked.
        rows: of `measured_rows`.
        most: questions at most, where rows are fewer; as many of forgotten images as of others, as
            far as there are, the same for every row. None asks every row for each image.
    """
    share = len(labels) if most is None else max(1, most // 2 // len(rows))
    parts = []
    for row in rows:
        gone = {*forget.classes, *forget.always, row}
        forgotten = torch.isin(labels, torch.tensor(sorted(gone)))
        for of_kind in (forgotten, ~forgotten):
            there = of_kind.nonzero().flatten()
            order = torch.randperm(len(there), generator=seeded(0, row + 1))[:share]
            position = there[order]
            parts.append(
                (position, torch.full_like(position, row), forgotten[position])  # each (m,)
            )
    position, row_of, is_forgotten = (torch.cat(part) for part in zip(*parts, strict=True))
    in_order = position.argsort(stable=True)
    return Asks(position[in_order], row_of[in_order], is_forgotten[in_order])


def answers(file: bytes, images: ImageSet, asks: Asks, slots: int) -> Tensor:
    """Return the logits (n, num_classes) of each of `asks`; refused ones are NaN.

    Args:
        file: the bytes of an ONNX file.
        images: the set that `asks` are about.
        asks: what is asked.
        slots: how many classes a request names; each names its row in all of them.
    """
    runs = session(file)
    as_bytes = runs.get_inputs()[0].type == "tensor(uint8)"
    parts = []
    for start in progress(range(0, len(asks.position), _BATCH), "measuring the file"):
        some = slice(start, start + _BATCH)
        image = images.images[images.index[asks.position[some]]]  # (m, c, h, w) uint8
        feeds = {"image": pixels(image, as_bytes=as_bytes)}
        if slots:
            feeds["forget_class"] = asks.row[some, None].expand(-1, slots).contiguous().numpy()
        parts.append(_run(runs, feeds))
    return torch.from_numpy(np.concatenate(parts))


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each of `logits` (n, num_classes) is right; a refused one, NaN, never is."""
    return (logits.argmax(dim=1) == labels) & logits.isfinite().all(dim=1)


def mean(values: Sequence[float]) -> float:
    """Return the mean of `values`, rounded as a record tells it."""
    return round(sum(values) / len(values), DIGITS)


def digest(images: ImageSet) -> str:
    """Return the SHA-256 of the pixels and labels of `images`."""
    whole = hashlib.sha256()
    for start in range(0, len(images), _BATCH):
        some = images.images[images.index[start : start + _BATCH]]
        whole.update(some.contiguous().numpy().tobytes())
    whole.update(images.labels.numpy().tobytes())
    return whole.hexdigest()


def pixels(images: Tensor, *, as_bytes: bool) -> npt.NDArray[np.generic]:
    """Return `images` (n, c, h, w) uint8 as a request carries them: [0, 1], or bytes NHWC."""
    if as_bytes:
        return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    return (images.float() / 255).numpy()


def _run(
    runs: ort.InferenceSession, feeds: dict[str, npt.NDArray[np.generic]]
) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = runs.run(["logits"], feeds)[0]
    return logits
