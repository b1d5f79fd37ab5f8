"""Image files into arrays of one shape."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.images import Images, Preprocess

MAX_PIXELS = 64_000_000
_IN_MEMORY = 2 << 30  # bytes of decoded images that are kept
_THREADS = 4
_TASK = 64  # images; small ones would spend more time in the queue than in the decoder
_GREY = ("1", "L", "I;16", "I;16L", "I;16B")
# raster formats only: Pillow's other readers start programs
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # in EXIF; on its side

Encoded = bytes | Path
Want = Preprocess | int | None  # a model's preparation, a height and width, or as the images are


@dataclass(frozen=True, slots=True)
class Shape:
    """What all images of a source are made into; see `Preprocess`."""

    channels: int
    size: tuple[int, int]
    resize: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"


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


def store(files: Sequence[Encoded], names: Sequence[str], want: Want) -> Images:
    """Return the images in `files`, decoded now if that takes less than 2 GiB.

    Args:
        files: encoded images or their paths.
        names: what to call each in a message.
        want: a model's preparation; or height and width that all are stretched to; or None where
            all have one size.

    Raises:
        InputError: a file is not an image, or sizes differ and `want` is None.
    """
    if not files:
        raise InputError("there are no images")
    decoded = Decoded(files, names, _shape(files, names, want))
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
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS)
    except FileNotFoundError as error:
        raise InputError(f"image {name}: no such file") from error
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise InputError(f"image {name}: not a readable image") from error
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"image {name}: {image.width}x{image.height} exceeds {MAX_PIXELS} pixels")
    return image


def to_array(
    image: Image.Image, shape: Shape, name: str = "image"
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Return `image` as uint8 (channels, h, w)."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
        plain = _plain(image).convert("L" if shape.channels == 1 else "RGB")
    except Exception as error:  # as in open_image
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"image {name}: truncated or corrupt ({reason})") from error
    array = np.asarray(_resized(plain, shape), dtype=np.uint8)
    return np.ascontiguousarray(array[None] if shape.channels == 1 else array.transpose(2, 0, 1))


def _resized(image: Image.Image, shape: Shape) -> Image.Image:
    """Return `image` in the size of `shape`: stretched, or resized and its centre cut out."""
    height, width = shape.size
    how = Image.Resampling[shape.interpolation.upper()]
    if shape.resize is None:
        return image.resize((width, height), how)
    shorter = min(image.size)
    # rounded as torchvision rounds, here down and below half to even
    wide, high = (int(shape.resize * side / shorter) for side in image.size)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return image.resize((wide, high), how).crop((left, top, left + width, top + height))


def _plain(image: Image.Image) -> Image.Image:
    """Return `image` with 8 bits a channel; Pillow itself makes all above 255 white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel ({image.mode})")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # Pillow warns on the direct way from here to RGB
    return image


def _shape(files: Sequence[Encoded], names: Sequence[str], want: Want) -> Shape:
    """Return what is wanted, for the rest after a look at the headers: grey only if all are."""
    if isinstance(want, Preprocess):
        return Shape(want.channels, want.size, want.resize, want.interpolation)

    def look(start: int) -> set[tuple[bool, tuple[int, int]]]:
        seen = set()
        for i in range(start, min(start + _TASK, len(files))):
            with open_image(files[i], names[i]) as image:
                seen.add((image.mode in _GREY, _upright_size(image)))
        return seen

    with ThreadPoolExecutor(_THREADS) as pool:
        looks = set().union(*pool.map(look, range(0, len(files), _TASK)))
    channels = 1 if all(grey for grey, _ in looks) else 3
    sizes = {size for _, size in looks}
    if want is not None:
        return Shape(channels, (want, want))
    if len(sizes) > 1:
        few = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:3])
        raise InputError(f"images have {len(sizes)} sizes ({few}, ...); say --image-size N")
    (width, height) = sizes.pop()
    return Shape(channels, (height, width))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # of a PNG it would have to decode everything to find EXIF, which hardly any has
    turned = image.format != "PNG" and image.getexif().get(_ORIENTATION) in _TURNED
    return image.size[::-1] if turned else image.size
