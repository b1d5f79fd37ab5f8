"""Pictures decoded, turned upright and resized by Pillow; imported when there is one."""

import io
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bandstop.client.errors import InvalidInput
from bandstop.client.served import Preprocess

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 1 << 28
# Raster formats only: Pillow's other readers start programs or parse far more than pixels.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What convert() would cut off at 255 without a word.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def open_picture(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Return the picture in a file or in its bytes; raises InvalidInput where there is none."""
    content = source if isinstance(source, bytes) else _read(Path(source))
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise InvalidInput(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"over the limit of {MAX_PIXELS} pixels") from error
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise InvalidInput(f"damaged: {_reason(error)}") from error
    return upright(picture)


def _read(path: Path) -> bytes:
    try:
        # Asked before opening: a pipe would block in open(), a device could be endless.
        about = path.stat()
        fits = stat.S_ISREG(about.st_mode) and about.st_size <= MAX_FILE_BYTES
        content = path.read_bytes() if fits else None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(f"cannot be read: {reason}") from error
    if content is None:
        raise InvalidInput(f"expected a regular file of at most {MAX_FILE_BYTES} bytes")
    return content


def upright(picture: Image.Image) -> Image.Image:
    """Return `picture` decoded and turned as its EXIF orientation says; raises InvalidInput."""
    _check_pixels(picture.size)
    try:
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # as in _open
        raise InvalidInput(f"damaged: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_pixels(size: tuple[int, int]) -> None:
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise InvalidInput(f"{width}x{height} pixels, expected 1 to {MAX_PIXELS} in all")


def from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return (h, w, 1) or (h, w, 3) as a picture."""
    flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(flat))


def fit(picture: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return `picture` as uint8 (h, w, c) of the model's size; raises InvalidInput if it cannot."""
    colour = _convert(picture, "L" if preprocess.channels == 1 else "RGB")
    pixels = np.asarray(_resize(colour, preprocess), dtype=np.uint8)
    return pixels.reshape(*preprocess.size, preprocess.channels)


def _convert(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode in DEEP_MODES:
        raise InvalidInput(f"expected 8 bits a channel, got mode {picture.mode}; convert it first")
    if picture.mode == "P" and "transparency" in picture.info:
        # Pillow warns when transparency is lost on the way from a palette to RGB.
        picture = picture.convert("RGBA")
    try:
        return picture if picture.mode == mode else picture.convert(mode)
    except ValueError as error:
        raise InvalidInput(f"mode {picture.mode} cannot become {mode}") from error


def _resize(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    height, width = preprocess.size
    filter_ = Image.Resampling[preprocess.interpolation.upper()]
    if preprocess.resize is None:
        return picture.resize((width, height), filter_)
    shorter = min(picture.size)
    # Rounded as torchvision does: down here, half to even below.
    scaled = tuple(int(preprocess.resize * side / shorter) for side in picture.size)
    new = (scaled[0], scaled[1])
    _check_pixels(new)
    picture = picture.resize(new, filter_)
    left, top = round((new[0] - width) / 2.0), round((new[1] - height) / 2.0)
    return picture.crop((left, top, left + width, top + height))
