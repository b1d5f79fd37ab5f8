"""A release of lower precision: made of the float32 file that passed its own checks, and judged."""

from dataclasses import asdict

from bandstop.export.errors import SpecError
from bandstop.export.measure import NOTHING_RETAINED
from bandstop.export.measure_asks import digest
from bandstop.export.precision_check import (
    TOLERANCES,
    Accuracy,
    agreement,
    ask_both,
    ask_of_instances,
    check_rows,
    forgotten,
    refuse_lost,
    retained,
)
from bandstop.export.precision_data import Lowering, calibration_feeds
from bandstop.export.precision_record import PrecisionRecord
from bandstop.export.quantise import to_int8
from bandstop.export.quantise_float16 import to_float16
from bandstop.export.record import ForgetRecord
from bandstop.export.spec import ExportSpec


def check_lowering(spec: ExportSpec, lowering: Lowering | None) -> None:
    """Refuse a precision without the images that it needs, and images that nothing needs.

    Raises:
        SpecError: one of these.
    """
    if spec.precision != "float32" and lowering is None:
        raise SpecError(
            f"precision {spec.precision}: needs a data set, since forgetting is measured again on "
            "the file"
        )
    if spec.precision == "float32" and lowering is not None:
        raise SpecError("precision float32: takes no images to calibrate with; leave out")


def lowered(
    wide: bytes,
    spec: ExportSpec,
    forget: ForgetRecord,
    num_classes: int,
    lowering: Lowering | None,
) -> tuple[bytes, PrecisionRecord | None]:
    """Return the file in the precision of `spec`, and how it compares; float32 stays as it is.

    Args:
        wide: the bytes of the float32 file, which passed its own checks.
        spec: what is exported.
        forget: what the file forgets.
        num_classes: of its logits.
        lowering: the images for it; None for float32.

    Raises:
        ExportError: the file cannot be had in this precision.
        ParityFailed: it answers otherwise than the float32 file, or does not refuse as it should.
        ForgettingLost: it recognises again what was forgotten.
    """
    kind = spec.precision
    if kind == "float32" or lowering is None:
        return wide, None
    calibrate = lowering.calibrate if kind == "int8" else None
    if calibrate is None:
        low = to_float16(wide)
    else:
        low = to_int8(wide, calibration_feeds(calibrate, spec, num_classes))
    refused = check_rows(low, spec, num_classes, lowering.measure.images)
    said = ask_both(wide, low, forget, num_classes, lowering.measure)
    close = agreement(said, kind)
    lost, kept = forgotten(said), retained(said)
    refuse_lost(lost, lowering.most_rise, kind, "what is forgotten")
    single = Accuracy(None, None, None)
    if lowering.gone is not None:
        single = forgotten(ask_of_instances(wide, low, forget, num_classes, lowering.gone))
        refuse_lost(single, lowering.most_rise, kind, "the forgotten images")
    if kept.low is None or kept.float32 is None:
        raise SpecError(NOTHING_RETAINED)
    record = PrecisionRecord(
        kind=kind,
        tolerance=TOLERANCES[kind],
        **asdict(close),
        forget_acc=lost.low,
        forget_acc_float32=lost.float32,
        row_rise=lost.row_rise,
        instances_acc=single.low,
        instances_acc_float32=single.float32,
        most_rise=lowering.most_rise,
        retain_acc=kept.low,
        retain_acc_float32=kept.float32,
        refused=refused,
        calibration_images=0 if calibrate is None else len(calibrate),
        calibration_sha256=None if calibrate is None else digest(calibrate),
    )
    return low, record
