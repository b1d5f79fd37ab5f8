"""Inputs that can be made anywhere from nothing, by which a served file is known again.

The recipe "bandstop-canary/1" is fixed for ever: a release that was made with it is checked with
it years later, by other libraries. So it takes its bytes from SHA-256 in counter mode, since no
library promises the stream of a random generator, and it computes with whole numbers only.

Row r, counter i from 0 on: the bytes are SHA-256("bandstop-canary/1 r i"), one after the other.
For each channel come 5 x 5 bytes first, a coarse picture whose corners are the image's corners,
stretched bilinearly and rounded down; then height x width bytes of noise. A pixel is twice the
picture plus the noise less 255, cut to 0..255. A float32 image is the uint8 one divided by 255.

Trained networks answer four such images more differently than four of plain noise, which layers
that pool average away: the two answers closest to each other are 1.6 to 2.9 times as far apart.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bandstop.export.canary_record import RECIPE
from bandstop.export.record import TensorRecord

COARSE = 5  # pixels a side of the coarse picture
_FIXED = 1 << 10  # whole numbers count 1/1024 of a coarse pixel


def pixels(row: int, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return image number `row` of the recipe (channels, height, width)."""
    stream = _stream(row, channels * (COARSE * COARSE + height * width))
    planes = stream.reshape(channels, -1).astype(np.int64)
    coarse = planes[:, : COARSE * COARSE].reshape(channels, COARSE, COARSE)
    noise = planes[:, COARSE * COARSE :].reshape(channels, height, width)
    low, above = _places(height)
    tall = coarse[:, low] * (_FIXED - above)[:, None] + coarse[:, low + 1] * above[:, None]
    left, beside = _places(width)
    picture = tall[:, :, left] * (_FIXED - beside) + tall[:, :, left + 1] * beside
    return np.clip(2 * (picture // (_FIXED * _FIXED)) + noise - 255, 0, 255).astype(np.uint8)


def feeds(
    inputs: Sequence[TensorRecord], forget: Sequence[Sequence[int]]
) -> dict[str, NDArray[np.generic]]:
    """Return what a graph with `inputs` takes for one row of the recipe for each of `forget`.

    Args:
        inputs: as the release tells them: image, and forget_class where it is gated.
        forget: the classes that each row names; empty where it takes none.
    """
    image, *asked = inputs
    if image.dtype == "UINT8":
        height, width, channels = image.shape
    else:
        channels, height, width = image.shape
    rows = np.stack([pixels(row, channels, height, width) for row in range(len(forget))])
    fed: dict[str, NDArray[np.generic]] = {}
    if image.dtype == "UINT8":
        fed[image.name] = np.ascontiguousarray(rows.transpose(0, 2, 3, 1))
    else:
        fed[image.name] = rows.astype(np.float32) / np.float32(255)
    for tensor in asked:
        fed[tensor.name] = np.array(forget, np.int64).reshape(len(forget), *tensor.shape)
    return fed


def _stream(row: int, count: int) -> NDArray[np.uint8]:
    def blocks() -> Iterator[bytes]:
        for counter in range(-(-count // hashlib.sha256().digest_size)):
            yield hashlib.sha256(f"{RECIPE} {row} {counter}".encode()).digest()

    return np.frombuffer(b"".join(blocks()), np.uint8)[:count]


def _places(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each of `size` pixels the coarse one before it and the part of the next."""
    at = np.arange(size) * ((COARSE - 1) * _FIXED) // max(1, size - 1)
    before = np.minimum(at // _FIXED, COARSE - 2)
    return before, at - before * _FIXED
