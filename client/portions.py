"""Streams of images, cut into portions that are asked together."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import SupportsIndex

import numpy as np

from bandstop.client.errors import InvalidInput
from bandstop.client.forget import Forget
from bandstop.client.images import ImageLike
from bandstop.client.questions import Call

_NONE_LEFT = object()


class Portions:
    """Makes calls of portions that follow each other; each takes its share of `forget`."""

    def __init__(self, forget: Forget, top_k: SupportsIndex | None) -> None:
        """Take from `forget`, where it is a list or an array, an entry for each image."""
        self._forget, self._top_k, self._given = forget, top_k, 0
        own = isinstance(forget, list) or (isinstance(forget, np.ndarray) and forget.ndim > 0)
        self._entries = iter(forget) if own and isinstance(forget, list | np.ndarray) else None

    def call(self, images: tuple[ImageLike, ...]) -> Call:
        """Return the call for the next `images`."""
        first, self._given = self._given, self._given + len(images)
        forget: Forget = self._forget
        if self._entries is not None:
            own = list(islice(self._entries, len(images)))
            if len(own) < len(images):
                raise InvalidInput(
                    f"forget: every image needs an entry, got {first + len(own)} entries "
                    f"for {self._given} images or more"
                )
            forget = np.stack(own) if isinstance(self._forget, np.ndarray) else own
        return Call(images, forget, self._top_k, first, lenient=True)

    def end(self) -> None:
        """Refuse entries that no image was given for; raises InvalidInput."""
        if self._entries is not None and next(self._entries, _NONE_LEFT) is not _NONE_LEFT:
            raise InvalidInput(f"forget: {self._given} images need as many entries, got more")


def cut(images: Iterator[ImageLike], size: int, portions: Portions) -> Iterator[Call]:
    """Yield calls for `size` images each, taken when the call is wanted."""
    while portion := tuple(islice(images, size)):
        yield portions.call(portion)
    portions.end()


async def cut_async(
    images: AsyncIterable[ImageLike], size: int, portions: Portions
) -> AsyncIterator[Call]:
    """Yield calls for `size` images each, taken when the call is wanted."""
    held: list[ImageLike] = []
    async for image in images:
        held.append(image)
        if len(held) == size:
            yield portions.call(tuple(held))
            held = []
    if held:
        yield portions.call(tuple(held))
    portions.end()


async def as_async(images: Iterable[ImageLike]) -> AsyncIterator[ImageLike]:
    """Yield `images`."""
    for image in images:
        yield image
