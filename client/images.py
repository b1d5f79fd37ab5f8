"""Images as callers have them, made into what the served model takes.

Files and pictures are turned upright by their EXIF orientation, made grey or RGB (colour
profiles and transparency are dropped; of several frames the first counts) and resized as
torchvision resizes PIL images. A float32 array is taken as it is and must fit. An array's
channels are its last axis, or its first where only that fits.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bandstop.client.errors import InvalidImage, InvalidInput, listed
from bandstop.client.served import Preprocess

if TYPE_CHECKING:  # Pillow is slow to import, and not everybody needs it
    from PIL.Image import Image

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image | NDArray[np.generic]"
Images: TypeAlias = "ImageLike | Iterable[ImageLike]"
Prepared: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]

ONE_BITS = 0x3F800000  # of float32 1.0
_KINDS = "a path, encoded bytes, a PIL image or a NumPy array"


class Decoded(NamedTuple):
    """Images by their position among those given, and the reasons why others are left out."""

    images: Mapping[int, Prepared]
    reasons: Mapping[int, str]


def as_list(images: Images) -> list[ImageLike]:
    """Return the images one by one: an array of rank 4 is a batch, anything single is one image.

    Raises:
        InvalidInput: there is no image at all.
    """
    split = list(each(images))
    if not split:
        raise InvalidInput("images: expected at least one, got none")
    return split


def each(images: Images) -> Iterator[ImageLike]:
    """Return the images one by one, as they come; raises InvalidInput where they are none."""
    if isinstance(images, np.ndarray):
        return iter(images) if images.ndim == 4 else iter([images])
    if isinstance(images, str | bytes | os.PathLike) or _is_picture(images):
        return iter([images])
    # A set has no order, and the answers are given in order.
    if isinstance(images, Iterable) and not isinstance(images, Mapping | AbstractSet | bytearray):
        return iter(images)
    raise InvalidInput(f"images: expected {_KINDS}, or a list of these, got {_kind(images)}")


def prepare(images: Sequence[ImageLike], preprocess: Preprocess) -> list[Prepared]:
    """Return each image as the model sees it: uint8 (h, w, c), or float32 (c, h, w) as given.

    Raises:
        InvalidImage: images that cannot be used, each named by its file or its position.
    """
    decoded = decode(images, preprocess)
    if decoded.reasons:
        raise InvalidImage(listed(list(decoded.reasons.values())), decoded.reasons)
    return list(decoded.images.values())


def decode(images: Sequence[ImageLike], preprocess: Preprocess, first: int = 0) -> Decoded:
    """Return the usable images as the model sees them, and why the others are not usable.

    Args:
        images: as the caller has them.
        preprocess: of the model.
        first: position of the first of them among all that the caller gave, to name them by.
    """
    prepared: dict[int, Prepared] = {}
    reasons: dict[int, str] = {}
    for position, image in enumerate(images):
        try:
            prepared[position] = _prepare_one(image, preprocess)
        except InvalidInput as error:
            reasons[position] = f"{named(image, first + position)}: {error}"
    return Decoded(prepared, reasons)


def stack(prepared: Sequence[Prepared], preprocess: Preprocess) -> NDArray[np.generic]:
    """Return prepared images as the tensor `image`: uint8 (n, h, w, c) or float32 (n, c, h, w).

    A single image that needs no conversion is not copied: its array is then the base of what is
    returned. Otherwise nothing else holds the memory.
    """
    if len(prepared) == 1 and prepared[0].dtype == preprocess.input:
        return prepared[0][np.newaxis]
    if preprocess.input == "uint8":
        return np.stack(prepared)
    floats = np.empty((len(prepared), preprocess.channels, *preprocess.size), np.float32)
    for row, one in zip(floats, prepared, strict=True):
        _write_float_(row, one)
    return floats


def named(image: ImageLike, position: int) -> str:
    """Return how a message calls `image`: by its path, else by its position."""
    # Quoted by repr: a file name may hold a newline or undecodable bytes.
    return repr(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {position}"


def _is_picture(image: object) -> "TypeGuard[Image]":
    pillow = sys.modules.get("PIL.Image")  # who has a picture has imported it
    return pillow is not None and isinstance(image, pillow.Image)


def _prepare_one(image: ImageLike, preprocess: Preprocess) -> Prepared:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            return _checked_floats(image, preprocess)
        pixels = _channels_last(image)
        height, width = preprocess.size
        as_is = preprocess.resize is None or preprocess.resize == height == width
        if as_is and pixels.shape == (height, width, preprocess.channels):
            return pixels
    from bandstop.client.pictures import fit, from_array, open_picture, upright

    if isinstance(image, np.ndarray):
        return fit(from_array(pixels), preprocess)
    if _is_picture(image):
        return fit(upright(image), preprocess)
    if isinstance(image, str | bytes | os.PathLike):
        return fit(open_picture(image), preprocess)
    raise InvalidInput(f"expected {_KINDS}, got {_kind(image)}")


def _kind(image: object) -> str:
    return f"{type(image).__module__}.{type(image).__qualname__}"


def _checked_floats(image: NDArray[np.generic], preprocess: Preprocess) -> NDArray[np.float32]:
    shape = (preprocess.channels, *preprocess.size)
    if preprocess.input == "uint8":
        raise InvalidInput(f"expected uint8 (h, w) or (h, w, c), got {image.dtype} {image.shape}")
    if image.dtype == np.float32 and image.shape == (*preprocess.size, preprocess.channels):
        image = image if image.shape == shape else image.transpose(2, 0, 1)
    if image.dtype != np.float32 or image.shape != shape:
        raise InvalidInput(
            f"expected float32 {shape} or {(*preprocess.size, preprocess.channels)} in [0, 1], "
            f"or uint8 (h, w) or (h, w, c), got {image.dtype} {image.shape}"
        )
    pixels: NDArray[np.float32] = image.astype(np.float32, copy=False)
    # As whole numbers the bits of 0 to 1 are the smallest; signs and NaN lie above. One pass.
    if pixels.view(np.uint32).max() > ONE_BITS and len(
        bad := np.argwhere(~((pixels >= 0) & (pixels <= 1)))  # -0.0 is none of them
    ):
        where = tuple(int(i) for i in bad[0])
        raise InvalidInput(
            f"expected values in [0, 1], got {pixels[where]} at {where} of (c, h, w); "
            "mean and std are applied by the model"
        )
    return pixels


def _channels_last(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return uint8 (h, w) or (h, w, c) or (c, h, w), c 1 or 3, as (h, w, c)."""
    pixels: NDArray[np.uint8] = image.astype(np.uint8, copy=False)
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    elif pixels.ndim == 3 and pixels.shape[2] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.size == 0 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise InvalidInput(f"expected uint8 (h, w), (h, w, c) or (c, h, w), got {image.shape}")
    return pixels


def _write_float_(row: NDArray[np.float32], pixels: Prepared) -> None:
    """Write `pixels` to `row` (c, h, w) in [0, 1]."""
    if pixels.dtype == np.float32:
        row[:] = pixels
    else:
        row[:] = pixels.transpose(2, 0, 1)
        row /= np.float32(255)  # a second pass over what the cache still holds
