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
    keep = len(labels) if top_k is None else _checked(top_k, len(labels))
    found = []
    for answer in answers:
        for row, applied in zip(softmax(answer.logits), answer.applied.tolist(), strict=True):
            best = np.argsort(-row, kind="stable")[:keep]  # of equals, the lower index first
            names = tuple(labels[i] or f"#{i}" for i in best)
            forgotten = tuple(dict.fromkeys(applied))
            found.append(Prediction(names, tuple(row[best].tolist()), answer.version, forgotten))
    return found


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities (n, classes) of finite `logits` (n, classes)."""
    scaled = logits.astype(np.float64)
    powers: NDArray[np.float64] = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _checked(top_k: SupportsIndex, classes: int) -> int:
    whole = isinstance(top_k, SupportsIndex) and not isinstance(top_k, bool | np.bool_)
    if not whole or not 1 <= operator.index(top_k) <= classes:
        raise InvalidInput(f"top_k: expected a whole number 1..{classes}, got {top_k!r}")
    return operator.index(top_k)
