"""Answers in words: class names and probabilities."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from bandstop.client.errors import InvalidInput
from bandstop.client.replies import Answer


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        names: of the classes, the most probable first; `#3` where class 3 has no name, as one that
            a baked model forgot.
        probabilities: of these classes; over all classes they sum to 1.
        version: of the model that answered.
        applied: the classes forgotten for this image, by index, without repeats; empty for a
            baked model. An index of `len(classes)` means that nothing was forgotten.
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    version: str
    applied: tuple[int, ...]


def predictions(
    answers: Sequence[Answer], labels: Sequence[str], top_k: SupportsIndex | None
) -> list[Prediction]:
    """Return a prediction for each image of `answers`, of its `top_k` classes or of all.

    Raises:
        InvalidInput: `top_k` is not 1 to the number of classes.
    """
    keep = checked_top_k(top_k, len(labels))
    found = []
    for answer in answers:
        probabilities = softmax(answer.logits)
        if keep == 1:
            best = probabilities.argmax(axis=1)[:, np.newaxis]
        else:  # of equals, the lower index first
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, :keep]
        chosen = probabilities[np.arange(len(best))[:, np.newaxis], best]
        for classes, values, applied in zip(
            best.tolist(), chosen.tolist(), answer.applied.tolist(), strict=True
        ):
            names = tuple([labels[i] or f"#{i}" for i in classes])
            forgotten = tuple(dict.fromkeys(applied)) if len(applied) > 1 else tuple(applied)
            found.append(Prediction(names, tuple(values), answer.version, forgotten))
    return found


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities (n, classes) of finite `logits` (n, classes)."""
    probabilities = logits.astype(np.float64)
    probabilities -= np.maximum.reduce(probabilities, axis=1, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= np.add.reduce(probabilities, axis=1, keepdims=True)
    return probabilities


def checked_top_k(top_k: SupportsIndex | None, classes: int) -> int:
    """Return how many of `classes` to show; raises InvalidInput where `top_k` is no such number."""
    if top_k is None:
        return classes
    try:
        keep = 0 if isinstance(top_k, bool | np.bool_) else operator.index(top_k)
    except TypeError:
        keep = 0
    if not 1 <= keep <= classes:
        raise InvalidInput(f"top_k: expected a whole number 1..{classes}, got {top_k!r}")
    return keep
