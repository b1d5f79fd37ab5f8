"""Whether a file of lower precision answers as its float32 file does, and still forgets.

Low precision can bring back what was forgotten (Zhang et al., arXiv:2410.16454), so both files are
asked the same about the same images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bandstop.edit.images import ImageSet
from bandstop.export.errors import ForgettingLost, ParityFailed
from bandstop.export.measure import Measure
from bandstop.export.measure_asks import (
    DIGITS,
    NO_ROW,
    Asks,
    answers,
    asks_of,
    correct,
    mean,
    measured_rows,
)
from bandstop.export.parity_asks import Ask, feeds_of
from bandstop.export.parity_refusals import check_refusals
from bandstop.export.precision_record import Kind
from bandstop.export.record import ForgetRecord
from bandstop.export.session import session
from bandstop.export.spec import ExportSpec
from bandstop.export.tolerance import two_digits

# of the mean difference of a logit, as a fraction of how far logits lie apart
TOLERANCES: dict[Kind, float] = {"fp16": 0.005, "int8": 0.05}
ROW_IMAGES = 100  # from so many on a row is judged on its own: one image is one point
_SOME = 7  # images to refuse one of


@dataclass(frozen=True, slots=True)
class Answers:
    """What both files say to the same questions.

    Attributes:
        wide: logits (n, num_classes) of the float32 file.
        low: of the file of lower precision.
        labels: (n,) int64, the class of each image.
        asks: what was asked.
    """

    wide: Tensor
    low: Tensor
    labels: Tensor
    asks: Asks


@dataclass(frozen=True, slots=True)
class Agreement:
    """How closely the two files agree; see `PrecisionRecord`."""

    spread: float
    mean_abs: float
    max_abs: float
    top1_agreement: float
    compared: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often each of the files is right, and the largest rise of a single row; None: unknown."""

    low: float | None
    float32: float | None
    row_rise: float | None


def ask_both(
    wide: bytes, low: bytes, forget: ForgetRecord, num_classes: int, measure: Measure
) -> Answers:
    """Return what both files answer to all that `accuracy_on_file` would ask."""
    labels = measure.images.labels
    asks = asks_of(labels, forget, measured_rows(forget, num_classes), measure.most)
    return _answers(wide, low, measure.images, asks, forget.slots)


def ask_of_instances(
    wide: bytes, low: bytes, forget: ForgetRecord, num_classes: int, gone: ImageSet
) -> Answers:
    """Return what both files answer to each of the forgotten training images `gone`.

    Where requests name a class, each names the one after the image's own, so that it is not this
    request that forgets it.
    """
    everything = torch.arange(len(gone))
    row = (gone.labels + 1) % num_classes if forget.slots else torch.full_like(everything, NO_ROW)
    asks = Asks(everything, row, torch.ones(len(gone)).bool())
    return _answers(wide, low, gone, asks, forget.slots)


def _answers(wide: bytes, low: bytes, images: ImageSet, asks: Asks, slots: int) -> Answers:
    first, second = (answers(file, images, asks, slots) for file in (wide, low))
    return Answers(first, second, images.labels[asks.position], asks)


def agreement(said: Answers, kind: Kind) -> Agreement:
    """Return how closely both files agree.

    Raises:
        ParityFailed: not as closely as files of this kind must.
    """
    gap = (said.low - said.wide).abs().double()
    # class by class, so that a logit switched off, the same for each image, does not count
    spread = float(said.wide.double().var(dim=0, correction=0).mean().sqrt())
    average = float(gap.mean())
    more = "calibrate with more images, or " if kind == "int8" else ""
    if not average <= TOLERANCES[kind] * spread:  # NaN neither
        raise ParityFailed(
            f"precision: {kind}: a logit differs from the float32 file's by {average:.3g} on "
            f"average, expected <= {TOLERANCES[kind]:g} of their spread {spread:.3g}; {more}export "
            "it as float32; nothing was written"
        )
    same = (said.low.argmax(1) == said.wide.argmax(1)).double().mean()
    return Agreement(
        two_digits(spread),
        two_digits(average),
        two_digits(float(gap.max())),
        round(float(same), DIGITS),
        len(gap),
    )


def forgotten(said: Answers) -> Accuracy:
    """Return the accuracies on what is forgotten, means over the rows."""
    return _accuracy(said, said.asks.forgotten)


def retained(said: Answers) -> Accuracy:
    """Return the accuracies on all else, means over the rows."""
    return _accuracy(said, ~said.asks.forgotten)


def _accuracy(said: Answers, kind: Tensor) -> Accuracy:
    right = [correct(logits, said.labels).double() for logits in (said.low, said.wide)]
    rows = [kind & (said.asks.row == row) for row in said.asks.row[kind].unique()]
    if not rows:
        return Accuracy(None, None, None)
    low, wide = ([float(r[row].mean()) for row in rows] for r in right)
    told = [a - b for a, b, row in zip(low, wide, rows, strict=True) if row.sum() >= ROW_IMAGES]
    return Accuracy(mean(low), mean(wide), round(max(told), DIGITS) if told else None)


def refuse_lost(accuracy: Accuracy, most_rise: float, kind: Kind, what: str) -> None:
    """Refuse a file that recognises again what its float32 file forgets.

    Args:
        accuracy: on what is forgotten.
        most_rise: how much more than the float32 file's is allowed.
        kind: of the file.
        what: is forgotten, for the message.

    Raises:
        ForgettingLost: it rose by more, over all rows or in one.
    """
    if accuracy.low is None or accuracy.float32 is None:
        return
    rise, where = accuracy.low - accuracy.float32, "on average"
    if accuracy.row_rise is not None and accuracy.row_rise > rise:
        rise, where = accuracy.row_rise, "in one row"
    if round(rise, DIGITS) > most_rise:
        raise ForgettingLost(
            f"precision: {kind} brings back what was forgotten: accuracy on {what} rises by "
            f"{100 * rise:.1f} points {where}, expected <= {100 * most_rise:.1f} (float32 "
            f"{accuracy.float32:.2%}, {kind} {accuracy.low:.2%}); export it as float32; nothing "
            "was written"
        )


def check_rows(low: bytes, spec: ExportSpec, num_classes: int, images: ImageSet) -> int:
    """Return how many requests with an index out of range were refused, each its row alone.

    Raises:
        ParityFailed: one was not, or changed an answer beside it; or a row was applied that was not
            asked for.
    """
    if spec.mode != "gated":
        return 0
    runs = session(low)
    some = images.images[images.index[:_SOME]].float() / 255
    asks = [Ask((i % num_classes,) * spec.forget_slots, i) for i in range(len(some))]
    applied = runs.run(["applied_forget_class"], feeds_of(asks, some, spec))[0].tolist()
    if applied != [list(ask.rows) for ask in asks]:
        raise ParityFailed(
            f"precision: asked for {[ask.rows for ask in asks]}, the file says that it applied "
            f"{applied}; nothing was written"
        )
    return check_refusals(runs, asks, some, spec, num_classes)
