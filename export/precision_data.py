"""The images that a file of lower precision is made with, and those it is judged by."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bandstop.edit.artifact import Artifact
from bandstop.edit.images import ImageSet
from bandstop.edit.origin import forgotten_by, instances_of
from bandstop.edit.stand_in import kind_of
from bandstop.export.errors import SpecError
from bandstop.export.measure import Measure, splits_of
from bandstop.export.measure_asks import MOST, pixels
from bandstop.export.quantise import Feeds
from bandstop.export.spec import ExportSpec

CALIBRATE = 128  # images, where nothing else is said
MOST_RISE = 0.01
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Lowering:
    """What a file of lower precision is made with, beside the float32 file.

    Attributes:
        calibrate: training images, whose values say how wide the ranges are; what was forgotten is
            not among them.
        measure: the test images that it is judged by.
        gone: training images that were forgotten one by one, where the data still has them.
        most_rise: by how much the accuracy on what is forgotten may rise, as a fraction.
    """

    calibrate: ImageSet
    measure: Measure
    gone: ImageSet | None = None
    most_rise: float = MOST_RISE


@dataclass(frozen=True, slots=True)
class Draw:
    """How many images, and which.

    Attributes:
        calibrate: training images at most.
        most: see `Measure`.
        seed: draws the training images.
        most_rise: see `Lowering`.
    """

    calibrate: int = CALIBRATE
    most: int | None = MOST
    seed: int = 0
    most_rise: float = MOST_RISE


def lowering_of(artifact: Artifact, data: str, spec: ExportSpec, draw: Draw) -> Lowering:
    """Return images of the data set `data` as `artifact` sees them.

    Raises:
        InputError: no such data, or other classes or images than the artifact's.
        SpecError: a number out of range, or nothing to draw from; all misfits at once.
    """
    _check(draw)
    manifest = artifact.manifest
    splits = splits_of(artifact, data)
    train, test = splits.train, splits.test
    gone = torch.isin(train.index, torch.tensor(instances_of(manifest), dtype=torch.int64))
    forgotten = {*forgotten_by(manifest), *spec.forget, *spec.always_forget}
    left = train.take(~gone).without_classes(forgotten)
    if not len(left) or not len(test):
        missing = "training image of what is not forgotten" if len(test) else "test image"
        raise SpecError(f"data {kind_of(data)}: has no {missing}; {spec.precision} needs some")
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(draw.seed))
    return Lowering(
        calibrate=left.take(order[: draw.calibrate]),
        measure=Measure(test, kind_of(data), draw.most),
        gone=train.take(gone) if bool(gone.any()) else None,
        most_rise=draw.most_rise,
    )


def calibration_feeds(images: ImageSet, spec: ExportSpec, num_classes: int) -> Iterator[Feeds]:
    """Yield in batches what a graph of `spec` takes; of gates each row in turn, in all slots."""
    rows = torch.arange(len(images)) % (num_classes + spec.allow_none)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        image = images.images[images.index[part]]  # (m, c, h, w) uint8
        batch = {"image": pixels(image, as_bytes=spec.input == "uint8")}
        if spec.mode == "gated":
            batch["forget_class"] = rows[part, None].repeat(1, spec.forget_slots).numpy()
        yield batch


def _check(draw: Draw) -> None:
    misfits = []
    if draw.calibrate < 1:
        misfits.append(f"calibrate: expected 1 image or more, got {draw.calibrate}")
    if draw.most is not None and draw.most < 2:
        misfits.append(f"images to measure with: expected 2 or more, or 0 for all, got {draw.most}")
    if not 0 <= draw.seed < 2**63:
        misfits.append(f"seed: expected 0..2^63-1, got {draw.seed}")
    if not 0 <= draw.most_rise <= 1:
        misfits.append(f"most rise of forget_acc: expected 0..1, got {draw.most_rise}")
    if misfits:
        raise SpecError("precision: " + "; ".join(misfits))
