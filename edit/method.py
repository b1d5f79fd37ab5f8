"""What every unlearning method is: hyper-parameters that can be called on a model."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import Edit
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.request import ForgetRequest


@dataclass(frozen=True, slots=True)
class Splits:
    """The training data as a request divides it.

    Attributes:
        forget: training images to forget.
        retain: training images to keep.
        validate: held-out training images of all classes, for choosing hyper-parameters.
    """

    forget: ImageSet
    retain: ImageSet
    validate: ImageSet


class Method(Protocol):
    """A frozen dataclass of hyper-parameters, with the paper's values as defaults."""

    name: ClassVar[str]

    @property
    def seed(self) -> int:
        """Seeds everything random in the method."""
        ...

    def __call__(self, model: Classifier, request: ForgetRequest, data: Splits) -> Edit:
        """Return the edit that makes `model` forget; `model` is left bit for bit as it was."""
        ...


def split(data: DataSplits, request: ForgetRequest) -> Splits:
    """Divide the training data as `request` asks; the test set is not in it."""
    if request.classes:
        forget = data.train.of_classes(request.classes)
        retain = data.train.without_classes(request.classes)
        return Splits(forget, retain, data.validate)
    raise NotImplementedError("instance-wise requests come with the L2UL method")
