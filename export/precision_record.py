"""What release.json says of a file of lower precision (no torch in here)."""

from typing import Annotated, Literal

from pydantic import Field

from bandstop.export.measure_record import Count, Share
from bandstop.export.record_strict import Sha256, Size, Strict

Kind = Literal["fp16", "int8"]
Precision = Literal["float32", Kind]
Rise = Annotated[float, Field(ge=-1, le=1)]


class PrecisionRecord(Strict):
    """How closely a file of lower precision agrees with its float32 file, and what it forgets.

    Both files were asked the same, as `MeasuredRecord` tells.

    Attributes:
        kind: of numbers that the file computes with.
        tolerance: of `mean_abs`, as a fraction of `spread`.
        spread: how far the float32 logits of different questions lie apart, their deviation.
        mean_abs: mean absolute difference of a logit between the two files.
        max_abs: largest such difference.
        top1_agreement: share of the questions to which both answer the same class.
        compared: questions, each compared over all logits.
        forget_acc: of this file; None where no class is forgotten.
        forget_acc_float32: of the float32 file.
        row_rise: by how much `forget_acc` of a single row rose at most; None where no row has
            images enough to tell.
        instances_acc: of this file on forgotten training images; None where there are none.
        instances_acc_float32: of the float32 file on these.
        most_rise: by how much each of these was allowed to rise.
        retain_acc: of this file.
        retain_acc_float32: of the float32 file.
        refused: requests with an index out of range that were refused as they should be.
        calibration_images: training images that the ranges were taken from; 0 where none are.
        calibration_sha256: digest of their pixels and labels.
    """

    kind: Kind
    tolerance: Size
    spread: Size
    mean_abs: Size
    max_abs: Size
    top1_agreement: Share
    compared: Annotated[int, Field(ge=1)]
    forget_acc: Share | None
    forget_acc_float32: Share | None
    row_rise: Rise | None
    instances_acc: Share | None
    instances_acc_float32: Share | None
    most_rise: Share
    retain_acc: Share
    retain_acc_float32: Share
    refused: Count
    calibration_images: Count
    calibration_sha256: Sha256 | None
