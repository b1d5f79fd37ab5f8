"""Pictures moved and mirrored at random, so that a network sees none of them twice."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
