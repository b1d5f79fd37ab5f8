"""The images of a load, decoded once, so that the load is the server's and not Pillow's."""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandstop.cli.predict_files import files
from bandstop.client import InvalidInput, Preprocess
from bandstop.client.images import decode

MOST = 64


def random_images(about: Preprocess, seed: int) -> list[NDArray[np.generic]]:
    """Return random images that the client sends on as they are."""
    generator, (height, width) = np.random.default_rng(seed), about.size
    if about.input == "float32":
        shape = (MOST, about.channels, height, width)
        return list(generator.random(shape, np.float32))
    # one that has the size to be resized to is only cropped
    height, width = (about.resize, about.resize) if about.resize else about.size
    return list(generator.integers(0, 256, (MOST, height, width, about.channels), np.uint8))


def images_of(folder: Path, about: Preprocess) -> list[NDArray[np.generic]]:
    """Return the first images below `folder`, as they are for a model that takes bytes.

    Raises:
        InvalidInput: there is none that can be used.
    """
    found = islice((path for path in files([str(folder)]) if isinstance(path, str)), MOST)
    decoded = decode(list(found), about)
    if not decoded.images:
        reason = next(iter(decoded.reasons.values()), "there is none")
        raise InvalidInput(f"--images {folder}: expected images that can be used: {reason}")
    return [_fitting(image, about) for image in decoded.images.values()]


def _fitting(image: NDArray[np.generic], about: Preprocess) -> NDArray[np.generic]:
    """Return a decoded `image` so that the client sends it on as it is."""
    if about.input == "float32":
        return image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    height, width = about.size
    if about.resize is None or about.resize == height == width:
        return image
    # the client would resize it again: give it a border that is cut off
    top, left = round((about.resize - height) / 2), round((about.resize - width) / 2)
    below, right = about.resize - height - top, about.resize - width - left
    return np.pad(image, ((top, below), (left, right), (0, 0)), "edge")
