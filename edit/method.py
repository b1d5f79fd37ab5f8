"""What every unlearning method is: hyper-parameters that can be called on a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import Edit
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.request import ForgetRequest


@dataclass(frozen=True, slots=True)
class Splits:
    """The training data as a request divides it.

    Attributes:
        forget: training images to forget.
        retain: training images to keep.
        validate: held-out training images of all classes, for choosing hyper-parameters.
        gone: single training images that earlier edits took out, which must not come back; None
            where there are none.
    """

    forget: ImageSet
    retain: ImageSet
    validate: ImageSet
    gone: ImageSet | None = None


class Method(Protocol):
    """A frozen dataclass of hyper-parameters, with the paper's values as defaults."""

    name: ClassVar[str]

    @property
    def seed(self) -> int:
        """Seeds everything random in the method."""
        ...

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> Edit:
        """Return the edit that makes `model` forget; `model` is left bit for bit as it was.

        Args:
            model: what is to forget.
            request: what is to be forgotten.
            data: the training data as `request` divides it.
            journal: where a method that takes minutes notes how far it is; None notes nothing.
        """
        ...


def split(data: DataSplits, request: ForgetRequest) -> Splits:
    """Divide the training data as `request` asks; the test set is not in it.

    Raises:
        InputError: an instance that is no training image.
    """
    if request.classes:
        forget = data.train.of_classes(request.classes)
        retain = data.train.without_classes(request.classes)
        return Splits(forget, retain, data.validate, data.gone)
    wanted = torch.tensor(request.instances)
    unknown = wanted[~torch.isin(wanted, data.train.index)].tolist()
    if unknown:
        raise InputError(
            f"instances: {len(unknown)} of {len(wanted)} are no training images "
            f"({', '.join(map(str, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}); images "
            "that were held out for validation or test taught the network nothing"
        )
    among = torch.isin(data.train.index, wanted)
    if bool(among.all()):
        raise InputError("instances: every training image is named; leave some to recognise")
    forget, retain = data.train.take(among), data.train.take(~among)
    return Splits(forget, retain, data.validate, data.gone)


def check_numbers(
    method: Method,
    above_zero: Sequence[str],
    from_zero: Sequence[str] = (),
    *,
    up_to_one: Sequence[str] = (),
) -> None:
    """Refuse settings of `method` that are no number of their range, all at once.

    Args:
        method: whose fields are looked at.
        above_zero: fields of numbers above 0.
        from_zero: fields of numbers from 0.
        up_to_one: which of these fields are at most 1.

    Raises:
        InputError: which ones.
    """
    ranges = [(field, "above") for field in above_zero] + [(field, "from") for field in from_zero]
    wrong = []
    for field, kind in ranges:
        value = getattr(method, field)
        if not (0 <= value < math.inf and (value > 0 or kind == "from")):
            wrong.append(f"{field} must be a number {kind} 0, got {value}")
        elif field in up_to_one and value > 1:
            wrong.append(f"{field} must be at most 1, got {value}")
    if wrong:
        raise InputError(f"{method.name}: {'; '.join(wrong)}")
