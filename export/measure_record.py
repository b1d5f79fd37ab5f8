"""What release.json says of the accuracies of a file (no torch in here)."""

from typing import Annotated

from pydantic import Field

from bandstop.export.record_strict import Sha256, Strict

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class MeasuredRecord(Strict):
    """How often the ONNX file itself is right on test images, of what it forgets and of the rest.

    Every row that was looked at is asked for images of what it forgets, and for others. Accuracies
    are means over the rows, to four digits.

    Attributes:
        forget_acc: on what is forgotten; None where no class is, or there is no image of it.
        worst_forget_acc: the same of the row that forgets worst.
        retain_acc: on all other classes.
        rows: how many of the rows that a request can name were asked; 1 where it names none.
        rows_total: how many it can name.
        forget_images: answers that `forget_acc` is of.
        retain_images: answers that `retain_acc` is of.
        images: different images asked.
        images_total: test images that the data set has.
        data: the kind of data set, without its place.
        data_sha256: digest of the pixels and labels of the images asked.
    """

    forget_acc: Share | None
    worst_forget_acc: Share | None
    retain_acc: Share
    rows: Annotated[int, Field(ge=1)]
    rows_total: Annotated[int, Field(ge=1)]
    forget_images: Count
    retain_images: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    images_total: Annotated[int, Field(ge=1)]
    data: str
    data_sha256: Sha256
