"""How often an ONNX file is right, asked through ONNX Runtime: of what it forgets, of the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bandstop.edit.artifact import Artifact
from bandstop.edit.data import load_data
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.stand_in import kind_of
from bandstop.edit.unlearn import check_agree
from bandstop.export.errors import SpecError
from bandstop.export.measure_asks import (
    DIGITS,
    MOST,
    Asks,
    answers,
    asks_of,
    correct,
    digest,
    mean,
    measured_rows,
)
from bandstop.export.measure_record import MeasuredRecord
from bandstop.export.record import ForgetRecord

NOTHING_RETAINED = "every test image is of what is forgotten; nothing tells what is retained"


@dataclass(frozen=True, slots=True)
class Measure:
    """What a file is measured with.

    Attributes:
        images: with their labels; none of them taught the network anything.
        data: the kind of data set, without its place.
        most: answers at most, half of them of forgotten images; None asks every row for each image.
    """

    images: ImageSet
    data: str
    most: int | None = MOST


def measure_of(artifact: Artifact, spec: str, most: int | None = MOST) -> Measure:
    """Return what to measure with: the test images of the data set `spec`, as `artifact` sees them.

    Raises:
        InputError: no such data, or other classes or images than the artifact's.
        SpecError: a number of answers that is none, or no test image.
    """
    if most is not None and most < 2:
        raise SpecError(f"images to measure with: expected 2 or more, or 0 for all, got {most}")
    test = splits_of(artifact, spec, to_train=False).test
    if not len(test):
        raise SpecError(f"data {kind_of(spec)}: has no test images to measure with; leave it out")
    return Measure(test, kind_of(spec), most)


def splits_of(artifact: Artifact, spec: str, *, to_train: bool = True) -> DataSplits:
    """Return the data set `spec` as `artifact` sees it, divided as its network was trained.

    Args:
        artifact: tells how its images are prepared and divided.
        spec: see `load_data`.
        to_train: see `load_data`.

    Raises:
        InputError: no such data, or other classes or images than the artifact's.
    """
    manifest = artifact.manifest
    data = load_data(
        spec,
        seed=manifest.split_seed or 0,
        preprocess=manifest.preprocess.preprocess(),
        to_train=to_train,
    )
    check_agree(artifact.model, data)
    return data


def accuracy_on_file(
    file: bytes, forget: ForgetRecord, num_classes: int, measure: Measure
) -> MeasuredRecord:
    """Return how often the ONNX `file` is right; the same figures for the same images.

    Args:
        file: the bytes of the ONNX file.
        forget: what it forgets.
        num_classes: of its logits.
        measure: the images.

    Raises:
        SpecError: every image is of what is forgotten.
    """
    rows = measured_rows(forget, num_classes)
    asks = asks_of(measure.images.labels, forget, rows, measure.most)
    logits = answers(file, measure.images, asks, forget.slots)
    right = correct(logits, measure.images.labels[asks.position])
    forget_acc = _per_row(right, asks, asks.forgotten, rows)
    retain_acc = _per_row(right, asks, ~asks.forgotten, rows)
    if not retain_acc:
        raise SpecError(NOTHING_RETAINED)
    return MeasuredRecord(
        forget_acc=mean(forget_acc) if forget_acc else None,
        worst_forget_acc=round(max(forget_acc), DIGITS) if forget_acc else None,
        retain_acc=mean(retain_acc),
        rows=len(rows),
        rows_total=num_classes if forget.slots else 1,
        forget_images=int(asks.forgotten.sum()),
        retain_images=int((~asks.forgotten).sum()),
        images=len(asks.position.unique()),
        images_total=len(measure.images),
        data=measure.data,
        data_sha256=digest(measure.images.take(asks.position.unique())),
    )


def _per_row(right: Tensor, asks: Asks, kind: Tensor, rows: Sequence[int]) -> list[float]:
    """Return the share of `right` (n,) among those of `kind` (n,), row by row, where there are."""
    shares = (right[kind & (asks.row == row)].double() for row in rows)
    return [float(share.mean()) for share in shares if len(share)]
