"""Images as callers have them, made into what the served model takes.

Files and pictures are turned upright by their EXIF orientation, made grey or RGB (colour
profiles and transparency are dropped; of several frames the first counts) and resized as
torchvision resizes PIL images. A float32 array is taken as it is and must fit.
"""

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bandstop.client.errors import InvalidImage, InvalidInput, listed
from bandstop.client.served import Preprocess

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic]
Prepared: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 1 << 28
# Raster formats only: Pillow's other readers start programs or parse far more than pixels.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What convert() would cut off at 255 without a word.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_KINDS = "a path, encoded bytes, a PIL image or a NumPy array"


def as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Return the images one by one: an array of rank 4 is a batch, anything single is one image.

    Raises:
        InvalidInput: there is no image at all.
    """
    if isinstance(images, np.ndarray):
        split: list[ImageLike] = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, list | tuple):
        split = list(images)
    elif isinstance(images, str | bytes | os.PathLike | Image.Image):
        split = [images]
    else:
        raise InvalidInput(f"images: expected {_KINDS}, or a list of these, got {_kind(images)}")
    if not split:
        raise InvalidInput("images: expected at least one, got none")
    return split


def prepare(images: Sequence[ImageLike], preprocess: Preprocess) -> list[Prepared]:
    """Return each image as the model sees it: uint8 (h, w, c), or float32 (c, h, w) as given.

    Raises:
        InvalidImage: images that cannot be used, each named by its file or its position.
    """
    prepared: list[Prepared] = []
    reasons: dict[int, str] = {}
    for position, image in enumerate(images):
        try:
            prepared.append(_prepare_one(image, preprocess))
        except InvalidInput as error:
            reasons[position] = f"{_name(image, position)}: {error}"
    if reasons:
        raise InvalidImage(listed(list(reasons.values())), reasons)
    return prepared


def stack(prepared: Sequence[Prepared], preprocess: Preprocess) -> NDArray[np.generic]:
    """Return prepared images as the tensor `image`: uint8 (n, h, w, c) or float32 (n, c, h, w)."""
    if preprocess.input == "uint8":
        return np.stack(prepared)
    return np.stack([_as_float(one) for one in prepared])


def _name(image: ImageLike, position: int) -> str:
    # Quoted by repr: a file name may hold a newline or undecodable bytes.
    return repr(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {position}"


def _open(source: str | os.PathLike[str] | bytes) -> Image.Image:
    content = source if isinstance(source, bytes) else _read(Path(source))
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise InvalidInput(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(f"over the limit of {MAX_PIXELS} pixels") from error
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise InvalidInput(f"damaged: {_reason(error)}") from error
    return _upright(picture)


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


def _upright(picture: Image.Image) -> Image.Image:
    """Return `picture` decoded and turned as its EXIF orientation says."""
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


def _prepare_one(image: ImageLike, preprocess: Preprocess) -> Prepared:
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8:
            return _fit(_picture(image), preprocess)
        return _checked_floats(image, preprocess)
    if isinstance(image, Image.Image):
        return _fit(_upright(image), preprocess)
    if isinstance(image, str | bytes | os.PathLike):
        return _fit(_open(image), preprocess)
    raise InvalidInput(f"expected {_KINDS}, got {_kind(image)}")


def _kind(image: object) -> str:
    return f"{type(image).__module__}.{type(image).__qualname__}"


def _checked_floats(image: NDArray[np.generic], preprocess: Preprocess) -> NDArray[np.float32]:
    shape = (preprocess.channels, *preprocess.size)
    if preprocess.input == "uint8":
        raise InvalidInput(f"expected uint8 (h, w) or (h, w, c), got {image.dtype} {image.shape}")
    if image.dtype != np.float32 or image.shape != shape:
        raise InvalidInput(
            f"expected float32 {shape} in [0, 1] or uint8 (h, w) or (h, w, c), "
            f"got {image.dtype} {image.shape}"
        )
    pixels: NDArray[np.float32] = image.astype(np.float32, copy=False)
    bad = ~((pixels >= 0) & (pixels <= 1))  # NaN is neither
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InvalidInput(
            f"expected values in [0, 1], got {pixels[where]} at {where}; "
            "mean and std are applied by the model"
        )
    return pixels


def _picture(image: NDArray[np.generic]) -> Image.Image:
    """Return uint8 (h, w), (h, w, 1) or (h, w, 3) as a picture."""
    flat = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if flat.size == 0 or flat.ndim not in (2, 3) or (flat.ndim == 3 and flat.shape[2] != 3):
        raise InvalidInput(f"expected uint8 (h, w), (h, w, 1) or (h, w, 3), got {image.shape}")
    return Image.fromarray(np.ascontiguousarray(flat))


def _fit(picture: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Return `picture` as uint8 (h, w, c) of the model's size and channels."""
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


def _as_float(pixels: Prepared) -> NDArray[np.float32]:
    """Return (c, h, w) in [0, 1]."""
    if pixels.dtype == np.float32:
        return pixels.astype(np.float32, copy=False)
    scaled: NDArray[np.float32] = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return scaled
