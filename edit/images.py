"""Labelled images, in memory or decoded when asked for, and how they are prepared."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor


class Images(Protocol):
    """A store of images of one shape; a uint8 tensor (n, channels, height, width) is one."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """Return the images at the int64 positions `index` (m,) as uint8 (m, channels, h, w)."""
        ...


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image file becomes what the network sees; the served graph does the last step itself.

    Attributes:
        size: height and width in pixels.
        channels: 3 for RGB, 1 for grey.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        resize: the shorter side is resized to this and the centre cropped to `size`;
            None stretches the whole image to `size`.
        interpolation: of the resize.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Some images of a store with their labels; re-iterable.

    Attributes:
        images: the store, shared between sets.
        index: (n,) int64, which images of the store.
        labels: (n,) int64, the class of each.
    """

    images: Images
    index: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images in this set."""
        return len(self.index)

    def take(self, positions: Tensor) -> "ImageSet":
        """Return the set of the images at `positions` (an index or a boolean mask) of this set."""
        return ImageSet(self.images, self.index[positions], self.labels[positions])

    def of_classes(self, classes: Iterable[int]) -> "ImageSet":
        """Return the images whose label is among `classes`."""
        return self.take(torch.isin(self.labels, torch.tensor(list(classes), dtype=torch.int64)))

    def without_classes(self, classes: Iterable[int]) -> "ImageSet":
        """Return the images whose label is not among `classes`."""
        return self.take(~torch.isin(self.labels, torch.tensor(list(classes), dtype=torch.int64)))

    def joined(self, other: "ImageSet") -> "ImageSet":
        """Return the images of this set, and those of `other`, behind them; of the same store.

        Raises:
            ValueError: of another store.
        """
        if other.images is not self.images:
            raise ValueError("sets of two stores cannot be joined")
        index = torch.cat((self.index, other.index))
        return ImageSet(self.images, index, torch.cat((self.labels, other.labels)))

    def per_class(self, count: int, generator: torch.Generator) -> "ImageSet":
        """Return at most `count` random images of each class."""
        order = torch.randperm(len(self), generator=generator)
        chosen = [order[self.labels[order] == c][:count] for c in self.labels.unique()]
        return self.take(torch.cat(chosen).sort().values) if chosen else self

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (m, c, h, w) float32 in [0, 1] with labels (m,), m <= `size`.

        Args:
            size: images a batch; the last may be smaller.
            generator: shuffles the set; None keeps its order.
        """
        n = len(self)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for start in range(0, n, size):
            part = order[start : start + size]
            yield self.images[self.index[part]].float() / 255, self.labels[part]


@dataclass(frozen=True, slots=True)
class DataSplits:
    """A data set: disjoint sets, its class names and how its images are prepared.

    `gone` are the single training images that earlier edits took out of the network, where the data
    still has them.
    """

    train: ImageSet
    validate: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    preprocess: Preprocess
    gone: ImageSet | None = None
