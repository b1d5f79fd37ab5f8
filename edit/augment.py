"""Pictures moved and mirrored at random, so that a network sees none of them twice."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.images import ImageSet


def shifted(image: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Return `image` (n, c, h, w), each picture moved by up to `shift` pixels both ways.

    What comes in from outside is black.
    """
    n, _, height, width = image.shape
    padded = F.pad(image, (shift, shift, shift, shift))
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
    rows = (dy[:, None] + torch.arange(height))[:, :, None]  # (n, h, 1)
    columns = (dx[:, None] + torch.arange(width))[:, None, :]  # (n, 1, w)
    moved = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns]
    # Left channels-last, it would make the whole network so, and PyTorch 2.15 on a CPU then writes
    # outside its memory in the backward pass of a narrow, strided 1x1 convolution. contiguous()
    # does not help: it takes grey images for both.
    return moved.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)


def mirrored(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return `image` (n, c, h, w) with each picture mirrored left to right half of the time."""
    chosen = torch.rand(len(image), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], image.flip(3), image)


def augmented(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return `image` (n, c, h, w) shifted by up to an eighth of its side; colour also mirrored.

    What is grey may be characters, which nobody writes mirrored.
    """
    moved = shifted(image, shift_for((image.shape[2], image.shape[3])), generator)
    return mirrored(moved, generator) if image.shape[1] == 3 else moved


def shift_for(size: tuple[int, int]) -> int:
    """Return by how many pixels images of this height and width are moved at most."""
    return max(1, min(size) // 8)


def crops(
    images: ImageSet, copies: int, generator: torch.Generator, *, smallest: float = 0.25
) -> ImageSet:
    """Return `copies` random crops of each image, stretched to its size, half of them mirrored.

    So few images show more of what their class can look like.

    Args:
        images: where to cut from; all of one shape.
        copies: crops of each, 1 or more.
        generator: draws place, size and mirroring.
        smallest: share of the area that a crop has at least.
    """
    made: list[Tensor] = []
    for image, _ in images.batches(1):
        # bytes at once: thousands of photographs as floats do not fit
        cut = (_crop(image, smallest, generator) for _ in range(copies))
        made += [(crop * 255).round().to(torch.uint8) for crop in cut]
    if not made:
        return images
    pixels = torch.cat(made)
    return ImageSet(pixels, torch.arange(len(pixels)), images.labels.repeat_interleave(copies))


def _crop(image: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """Return a random part of `image` (1, c, h, w), up to 3 : 4 of its proportions."""
    height, width = image.shape[2:]
    area, stretch, y, x = torch.rand(4, generator=generator).tolist()
    area, stretch = smallest + area * (1 - smallest), (4 / 3) ** (stretch - 0.5)
    tall = max(1, min(height, round(height * (area**0.5) * stretch)))
    wide = max(1, min(width, round(width * (area**0.5) / stretch)))
    top, left = round(y * (height - tall)), round(x * (width - wide))
    part = image[:, :, top : top + tall, left : left + wide]
    whole = F.interpolate(part, (height, width), mode="bilinear", antialias=True)
    return mirrored(whole.clamp(0, 1), generator)
