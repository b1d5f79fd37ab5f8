"""What goes over the wire, as plain values: the Open Inference Protocol without its library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Little-endian, as the protocol has it on every machine.
DTYPES: Mapping[str, str] = {"FP32": "<f4", "INT64": "<i8", "UINT8": "|u1"}
NUMPY_DTYPES = {datatype: np.dtype(code) for datatype, code in DTYPES.items()}


# Named tuples, here and below: each request makes several, in a fifth of a frozen dataclass's time.
class Place(NamedTuple):
    """Where a tensor's bytes lie: from the beginning of shared memory that the server knows."""

    region: str
    size: int


class Tensor(NamedTuple):
    """A named tensor as sent: its type as the server writes it, its bytes row-major.

    One that has a `place` has its bytes there and no `data`.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview
    place: Place | None = None


class InferRequest(NamedTuple):
    """One inference; `version` "" leaves the choice to the server."""

    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]


class InferReply(NamedTuple):
    """What came back, unchecked; `version` is the one that answered."""

    model: str
    version: str
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that the server declares; -1 in `shape` is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the server tells of a model."""

    versions: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What we use of a model's config.pbtxt."""

    max_batch_size: int
    parameters: Mapping[str, str]


def encode(name: str, array: NDArray[np.generic], datatype: str) -> Tensor:
    """Return `array` as a tensor of `datatype`, which its dtype must already be."""
    data = np.asarray(array, NUMPY_DTYPES[datatype]).tobytes()  # row-major, however it lies
    return Tensor(name, datatype, array.shape, data)


def lend(name: str, array: NDArray[np.generic], datatype: str) -> Tensor:
    """Return what `encode` does, but `array`'s own memory, which then must not be changed."""
    data = np.ascontiguousarray(array, NUMPY_DTYPES[datatype]).data.cast("B")
    return Tensor(name, datatype, array.shape, data)
