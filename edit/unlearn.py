"""The edit stage as one call: fold BatchNorm, divide the data, run a method."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import Edit, WeightEdit, changed, edited
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.images import DataSplits
from bandstop.edit.journal import Journal
from bandstop.edit.judge import judged
from bandstop.edit.method import Method, split
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD


@runtime_checkable
class Prepares(Protocol):
    """A method that wants BatchNorm folded in a way of its own."""

    def prepare(self, model: Classifier) -> Classifier:
        """Return `model` with BatchNorm folded; `model` is left as it was."""
        ...


def unlearn(
    model: Classifier,
    method: Method,
    request: ForgetRequest,
    data: DataSplits,
    journal: Journal | None = None,
) -> tuple[Classifier, Edit]:
    """Return the folded network and the edit that `method` makes of it; `model` stays as it was.

    A warning tells when the edit made the network forget more than was asked (see `over_forgot`).

    Raises:
        InputError: model and data disagree on classes or image shape.
    """
    check_agree(model, data)
    before, parts = prepared(model, method), split(data, request)
    folded, edit = settled(before, method(before, request, parts, journal))
    if isinstance(edit, WeightEdit):
        edit = judged(folded, edit, request, parts)
    return folded, edit


def unlearn_each(
    model: Classifier, method: SVD, classes: Sequence[int], data: DataSplits
) -> tuple[Classifier, Iterator[tuple[int, WeightEdit | NothingForgottenError]]]:
    """Return the folded network, and an edit for each of `classes` alone (see `SVD.each`).

    Raises:
        InputError: model and data disagree on classes or image shape.
    """
    check_agree(model, data)
    folded = prepared(model, method)
    return folded, method.each(folded, classes, data)


def prepared(model: Classifier, method: Method) -> Classifier:
    """Return `model` with BatchNorm folded as `method` asks for, else into the layers."""
    if isinstance(method, Prepares):
        return method.prepare(model)
    return model if model.bn_folded else fold_batchnorm(model)


def settled(model: Classifier, edit: Edit) -> tuple[Classifier, Edit]:
    """Return `model` with BatchNorm folded, and the edit of that.

    Where a method trained a network with BatchNorm, both are folded, and the edit is what differs.
    BatchNorm whose statistics adapted to masks is folded with these; its shift stays behind the
    layer, where no mask reached it in training.
    """
    if isinstance(edit, WeightEdit):
        return (model, edit) if model.bn_folded else _folded_with(model, edit)
    if not edit.statistics:
        return model, edit
    network = copy.deepcopy(model.network)
    network.load_state_dict({**network.state_dict(), **edit.statistics})
    return fold_batchnorm(model.replaced(network), shift="apart"), replace(edit, statistics={})


def _folded_with(model: Classifier, edit: WeightEdit) -> tuple[Classifier, WeightEdit]:
    before, after = fold_batchnorm(model), fold_batchnorm(edited(model, edit))
    return before, WeightEdit(
        changed(before.network.state_dict(), after.network.state_dict()), edit.found
    )


def every_class(model: Classifier) -> ForgetRequest:
    """Return the request of a method that unlearns all classes at once, such as WF-Net."""
    return ForgetRequest(classes=tuple(range(model.num_classes)))


def check_agree(model: Classifier, data: DataSplits) -> None:
    """Refuse data that `model` was not made for.

    Raises:
        InputError: other class names or another image shape.
    """
    ours, theirs = model.preprocess, data.preprocess
    sides = [
        ("class names", _names(model.class_names), _names(data.class_names)),
        ("image size", ours.size, theirs.size),
        ("channels", ours.channels, theirs.channels),
    ]
    misfits = [f"{what}: model {a}, data {b}" for what, a, b in sides if a != b]
    if misfits:
        raise InputError("model and data do not fit: " + "; ".join(misfits))


def _names(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names)})"
