"""Image files into arrays of one shape."""

import io
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.images import Images

MAX_PIXELS = 64_000_000
_IN_MEMORY = 2 << 30  # bytes of decoded images that are kept
_THREADS = 4
_TASK = 64  # images; small ones would spend more time in the queue than in the decoder
_GREY = ("1", "L", "I;16", "I;16L", "I;16B")
# what Pillow raises, format by format, at bytes that are not what they should be
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)

Encoded = bytes | Path


@dataclass(frozen=True, slots=True)
class Shape:
    """The one shape that all images of a source get; the whole image is stretched to it."""

    channels: int
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Images that are decoded whenever they are asked for: an `Images` store.

    Attributes:
        files: encoded images or their paths.
        names: what to call each in a message.
        shape: of the result.
    """

    files: Sequence[Encoded]
    names: Sequence[str]
    shape: Shape

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the images at `index` (m,) as uint8 (m, channels, h, w)."""
        wanted = index.tolist()
        images = np.empty((len(wanted), self.shape.channels, *self.shape.size), dtype=np.uint8)

        def decode(start: int) -> None:
            for place, i in enumerate(wanted[start : start + _TASK], start):
                with open_image(self.files[i], self.names[i]) as image:
                    images[place] = to_array(image, self.shape, self.names[i])

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(decode, range(0, len(wanted), _TASK)))
        return torch.from_numpy(images)


def store(files: Sequence[Encoded], names: Sequence[str], image_size: int | None) -> Images:
    """Return the images in `files`, decoded now if that takes less than 2 GiB.

    Args:
        files: encoded images or their paths.
        names: what to call each in a message.
        image_size: height and width that all are stretched to; None where all have one size.

    Raises:
        InputError: a file is not an image, or sizes differ and `image_size` is None.
    """
    decoded = Decoded(files, names, _common_shape(files, names, image_size))
    pixels = decoded.shape.size[0] * decoded.shape.size[1] * decoded.shape.channels
    if pixels * len(files) > _IN_MEMORY:
        return decoded
    return decoded[torch.arange(len(files))]


def open_image(file: Encoded, name: str) -> Image.Image:
    """Return the opened image, not yet decoded.

    Raises:
        InputError: missing, not an image, or larger than MAX_PIXELS.
    """
    try:
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except FileNotFoundError as error:
        raise InputError(f"image {name}: no such file") from error
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise InputError(f"image {name}: not a readable image") from error
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"image {name}: {image.width}x{image.height} exceeds {MAX_PIXELS} pixels")
    return image


def to_array(
    image: Image.Image, shape: Shape, name: str = "image"
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Return `image` as uint8 (channels, h, w)."""
    try:
        plain = _eight_bits(image).convert("L" if shape.channels == 1 else "RGB")
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"image {name}: truncated or corrupt ({reason})") from error
    if plain.size != shape.size[::-1]:
        plain = plain.resize(shape.size[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(plain, dtype=np.uint8)
    return np.ascontiguousarray(array[None] if shape.channels == 1 else array.transpose(2, 0, 1))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return `image` with 8 bits a channel; Pillow itself makes all above 255 white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel ({image.mode})")
    return image


def _common_shape(files: Sequence[Encoded], names: Sequence[str], image_size: int | None) -> Shape:
    """Look at the headers: grey only if all are, one size or the one that was asked for."""

    def look(start: int) -> set[tuple[str, tuple[int, int]]]:
        seen = set()
        for i in range(start, min(start + _TASK, len(files))):
            with open_image(files[i], names[i]) as image:
                seen.add((image.mode, image.size))
        return seen

    if not files:
        raise InputError("there are no images")
    with ThreadPoolExecutor(_THREADS) as pool:
        looks = set().union(*pool.map(look, range(0, len(files), _TASK)))
    channels = 1 if all(mode in _GREY for mode, _ in looks) else 3
    sizes = {size for _, size in looks}
    if image_size is not None:
        return Shape(channels, (image_size, image_size))
    if len(sizes) > 1:
        few = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:3])
        raise InputError(f"images have {len(sizes)} sizes ({few}, ...); say --image-size N")
    (width, height) = sizes.pop()
    return Shape(channels, (height, width))
