"""The control that every method has to be compared with: switch the class's logit off."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import InputError
from bandstop.edit.head import head_of
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest

OFF = -1e4  # far below any logit, and finite: -inf would turn into NaN further on


@dataclass(frozen=True, slots=True)
class LogitMask:
    """Set the head's weight row to 0 and its bias to -1e4: hides the class, forgets nothing.

    Attributes:
        seed: unused; nothing is random.
    """

    name: ClassVar[str] = "logit-mask"
    seed: int = 0

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit of the last linear layer; `model` is left as it was.

        Raises:
            InputError: the network does not end in a linear layer with a bias a class.
        """
        if not request.classes:
            raise InputError("logit-mask hides classes, not instances")
        return switched_off(model, request.classes)


def switched_off(model: Classifier, classes: Sequence[int]) -> WeightEdit:
    """Return the edit of the last linear layer that takes `classes` out of every answer.

    Raises:
        InputError: the network does not end in a linear layer with a bias a class.
    """
    name, head = head_of(model)
    if head.bias is None:
        raise InputError(f"logit-mask needs a bias a class, and {name} has none")
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    weight[list(classes)] = 0
    bias[list(classes)] = OFF
    return WeightEdit({f"{name}.weight": weight, f"{name}.bias": bias})
