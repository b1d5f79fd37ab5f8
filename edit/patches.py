"""The patches that a convolution multiplies with its weight: all of them, or some of each image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the patch at every output position of x (n, c, h, w), (groups, n positions, d)."""
    unfolded = F.unfold(
        _padded(layer, x), layer.kernel_size, dilation=layer.dilation, stride=layer.stride
    )
    images, _, positions = unfolded.shape
    grouped = unfolded.reshape(images, layer.groups, -1, positions)
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def patches_at(layer: nn.Conv2d, x: Tensor, positions: Tensor) -> Tensor:
    """Return the patches at some output positions only; the others are never made.

    Args:
        layer: the convolution.
        x: what it reads, (n, c, h, w).
        positions: of each image, (n, k) int64, counted row by row over the output.

    Returns:
        (groups, n k, d), a part of the rows of `patches`.
    """
    width = output_size(layer, x)[1]
    top = (positions // width * layer.stride[0])[:, :, None, None]
    left = (positions % width * layer.stride[1])[:, :, None, None]
    down = torch.arange(layer.kernel_size[0], device=x.device)[:, None] * layer.dilation[0]
    right = torch.arange(layer.kernel_size[1], device=x.device) * layer.dilation[1]
    image = torch.arange(len(x), device=x.device)[:, None, None, None]
    taken = _padded(layer, x)[image, :, top + down, left + right]  # (n, k, kh, kw, c)
    rows = taken.permute(0, 1, 4, 2, 3).reshape(positions.numel(), layer.groups, -1)
    return rows.transpose(0, 1)


def output_size(layer: nn.Conv2d, x: Tensor) -> tuple[int, int]:
    """Return the rows and columns of output positions for x (n, c, h, w)."""
    left, right, top, bottom = _padding(layer, x)
    height, width = (
        (size - layer.dilation[i] * (layer.kernel_size[i] - 1) - 1) // layer.stride[i] + 1
        for i, size in enumerate((x.shape[2] + top + bottom, x.shape[3] + left + right))
    )
    return height, width


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, _padding(layer, x), mode=mode)


def _padding(layer: nn.Conv2d, x: Tensor) -> list[int]:
    """Return the padding of `x`, (left, right, top, bottom)."""
    # timm's layers for networks from TensorFlow pad when they are called: so that the output has
    # ceil(size / stride) positions, the odd row or column after the image
    if not any(kind.__name__.startswith("Conv2dSame") for kind in type(layer).__mro__):
        return list(layer._reversed_padding_repeated_twice)
    sides = []
    for axis in (1, 0):
        size, stride = x.shape[2 + axis], layer.stride[axis]
        reach = (-(-size // stride) - 1) * stride
        reach += layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        extra = max(reach - size, 0)
        sides += [extra // 2, extra - extra // 2]
    return sides
