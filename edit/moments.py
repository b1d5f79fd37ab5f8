"""Second moments of what each layer reads, summed over images; no image's activation is kept."""

import math
from collections.abc import Collection, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.attention import SelfAttention
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.projection import Rows, Space

Layer = nn.Conv2d | nn.Linear | SelfAttention
_ROWS_AT_ONCE = 1 << 21  # elements of unfolded input that are held at a time (8 MB of float32)
_BLOCKS = 8  # of columns; only the blocks on and below the diagonal are multiplied
_SMALLEST_BLOCK = 128
_DOUBLE_UP_TO = 2048  # features; a larger sum stays in the dtype of its layer, to save memory
_TOLERANCE = 1e-3  # relative, between a layer's output and its rows times its weight


def editable_layers(network: nn.Module) -> dict[str, Layer]:
    """Return every convolution, linear layer and attention input map of `network` by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | SelfAttention)
    }


def weight_name(name: str, layer: Layer) -> str:
    """Return the name of the parameter that the layer called `name` multiplies with."""
    kind = "in_proj_weight" if isinstance(layer, SelfAttention) else "weight"
    return f"{name}.{kind}" if name else kind


def weight_of(layer: Layer) -> Tensor:
    """Return the parameter that `layer` multiplies with, in its own shape."""
    weight = layer.in_proj_weight if isinstance(layer, SelfAttention) else layer.weight
    return weight.detach()


def weight_matrix(layer: Layer) -> Tensor:
    """Return the weight as (groups, out / groups, d)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    weight = weight_of(layer)
    return weight.reshape(groups, len(weight) // groups, -1)


def layer_rows(layer: Layer, x: Tensor) -> Tensor:
    """Return the inputs that `layer` multiplies with its weight matrix, (groups, n, d).

    Linear and attention: one row per vector or token. Conv2d: one row per output position, in the
    order of the flattened weight (channel, row, column), with the layer's own stride, padding and
    dilation; each group of channels is a layer of its own.
    """
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, _padding(layer, x), mode=mode)
    patches = F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    images, _, positions = patches.shape
    grouped = patches.reshape(images, layer.groups, -1, positions)
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def second_moments(
    model: Classifier,
    images: ImageSet,
    *,
    batch: int = 100,
    layers: Collection[str] | None = None,
    of: int | None = None,
) -> dict[str, Space]:
    """Return `A^T A` of the inputs A of every layer, (groups, d, d).

    The moment is not centred (paper A, algorithm 1) and sums over images, so moments of disjoint
    sets add. A linear layer on vectors that is wider than there are images keeps its rows instead,
    so that no (d, d) matrix is made. `model` is only read.

    Args:
        model: what reads the images.
        images: in [0, 1].
        batch: images at a time.
        layers: names of the layers to watch; None for all.
        of: the size of the set that `images` are a part of, which decides what keeps its rows.

    Raises:
        InputError: a layer is never called or multiplies with something other than its weight, so
            that what it reads cannot be seen.
        DivergedError: a layer reads what is not finite.
    """
    watched = editable_layers(model.network)
    watched = {n: m for n, m in watched.items() if layers is None or n in layers}
    sums: dict[str, _Sum] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in watched.items():

            def add_(
                _m: nn.Module,
                args: tuple[Tensor, ...],
                kwargs: dict[str, Tensor],
                y: Tensor,
                name: str = name,
            ) -> None:
                x = args[0] if args else next(iter(kwargs.values()))
                if name not in sums:
                    _check_seen(name, watched[name], x[:1], y)
                    sums[name] = _Sum(watched[name], x, of or len(images))
                sums[name].add_(x)

            hooks.callback(layer.register_forward_hook(add_, with_kwargs=True).remove)
        for image, _ in images.batches(batch):
            model(image.to(model.mean))
    bypassed = [name for name in watched if name not in sums]
    if bypassed and len(images):
        raise InputError(
            f"{model.arch.name} never calls {', '.join(bypassed[:5])}: it multiplies with their "
            "weights by itself, as torch's MultiheadAttention does, and what they read is not seen"
        )
    moments = {name: sums[name].space() for name in watched}
    wild = [name for name, moment in moments.items() if not _finite(moment)]
    if wild:
        raise DivergedError(
            f"{model.arch.name}: what {wild[0]} reads is not finite; are its weights?"
        )
    return moments


class _Sum:
    """The running second moment of one layer."""

    def __init__(self, layer: Layer, x: Tensor, images: int) -> None:
        """Start at zero; `x` is a first input and `images` how many there will be."""
        self.layer = layer
        groups, _, d = weight_matrix(layer).shape
        self.rows: list[Tensor] = []
        self.keeps_rows = isinstance(layer, nn.Linear) and x.ndim == 2 and images < d
        dtype = torch.float64 if d <= _DOUBLE_UP_TO else x.dtype
        self.total = x.new_zeros((groups, 0, 0) if self.keeps_rows else (groups, d, d), dtype=dtype)

    def add_(self, x: Tensor) -> None:
        """Add the rows of the batch `x`."""
        if self.keeps_rows:
            self.rows.append(x.clone()[None])
            return
        for part in _chunks(self.layer, x):
            _add_gram_(self.total, layer_rows(self.layer, part))

    def space(self) -> Space:
        """Return what was summed."""
        if self.keeps_rows:
            return Rows(torch.cat(self.rows, dim=1))
        _mirror_(self.total)
        return self.total


def _add_gram_(total: Tensor, rows: Tensor) -> None:
    """Add `rows^T rows` to `total` (groups, d, d), blocks on and below the diagonal only."""
    for start, stop in _blocks(total.shape[-1]):
        total[:, start:, start:stop] += rows[:, :, start:].mT @ rows[:, :, start:stop]


def _mirror_(total: Tensor) -> None:
    for start, stop in _blocks(total.shape[-1]):
        total[:, start:stop, stop:] = total[:, stop:, start:stop].mT


def _finite(space: Space) -> bool:
    values = space.rows if isinstance(space, Rows) else space.diagonal(dim1=-2, dim2=-1)
    return bool(torch.isfinite(values).all())


def _blocks(d: int) -> Iterator[tuple[int, int]]:
    size = max(_SMALLEST_BLOCK, -(-d // _BLOCKS))
    yield from ((start, min(start + size, d)) for start in range(0, d, size))


def _chunks(layer: Layer, x: Tensor) -> Iterator[Tensor]:
    """Yield slices of the batch `x` whose unfolded rows stay below a fixed size."""
    if not isinstance(layer, nn.Conv2d):
        yield x
        return
    per_image = x[0].numel() * math.prod(layer.kernel_size) // math.prod(layer.stride)
    yield from x.split(max(1, _ROWS_AT_ONCE // max(1, per_image)))


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


def _check_seen(name: str, layer: Layer, x: Tensor, y: Tensor) -> None:
    """Refuse a layer whose output `y[:1]` is not its rows of `x` times its weight."""
    if isinstance(layer, SelfAttention):
        return
    want = layer_rows(layer, x) @ weight_matrix(layer).mT  # (groups, n, out / groups)
    got = y[:1].detach()
    if layer.bias is not None:
        got = got - layer.bias.detach().reshape(-1, *[1] * (got.ndim - 2 if got.ndim > 3 else 0))
    if isinstance(layer, nn.Conv2d):
        got = got[0].reshape(layer.groups, -1, got[0, 0].numel()).mT
    else:
        got = got.reshape(1, -1, layer.out_features)
    limit = _TOLERANCE * float(want.abs().max()) + 1e-6
    if got.shape != want.shape or float((got - want).abs().max()) > limit:  # NaN is told later
        raise InputError(
            f"{name} is a {type(layer).__name__}, which does not multiply what it reads with its "
            "weight as a plain layer does; leave it out with exclude"
        )
