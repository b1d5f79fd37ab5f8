"""What a verification tells of the accuracies that a release was measured with."""

from collections.abc import Iterator

from bandstop.export.record import ReleaseRecord
from bandstop.export.verify_checks import Check


def measured_checks(record: ReleaseRecord) -> Iterator[Check]:
    """Yield a check of `measured` where the release has it; it is not measured again."""
    measured = record.measured
    if measured is None:
        return
    misfits = []
    rows_total = len(record.class_names) if record.forget.slots else 1
    if measured.rows_total != rows_total or measured.rows > rows_total:
        misfits.append(f"{measured.rows} of {measured.rows_total} rows, expected of {rows_total}")
    if measured.images > measured.images_total:
        misfits.append(f"{measured.images} images of {measured.images_total}")
    mean, worst = measured.forget_acc, measured.worst_forget_acc
    if (mean is None) != (worst is None) or (mean or 0) > (worst or 0):
        misfits.append(f"forget_acc {mean}, at worst {worst}")
    told = [f"retain_acc {measured.retain_acc}, n {measured.retain_images}"]
    if mean is not None:
        rows = f", at worst {worst}" if measured.rows > 1 else ""
        told = [f"forget_acc {mean}{rows}, n {measured.forget_images}", *told]
    yield Check("measured", misfits, f"{'; '.join(told)}; {measured.data}")
