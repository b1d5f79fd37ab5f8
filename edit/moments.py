"""Second moments of what each layer reads, summed over images; no activation is kept."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet

Layer = nn.Conv2d | nn.Linear
Moments = Mapping[str, Tensor]  # layer name -> (groups, d, d), float64
_ROWS_AT_ONCE = 1 << 24  # elements of unfolded input that are held at a time (64 MB of float32)


def editable_layers(network: nn.Module) -> dict[str, Layer]:
    """Return every convolution and linear layer of `network` by name."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def layer_rows(layer: Layer, x: Tensor) -> Tensor:
    """Return the inputs that `layer` multiplies with its weight matrix, (groups, n, d).

    Linear: one row per vector or token. Conv2d: one row per output position, in the order of the
    flattened weight (channel, row, column), with the layer's own stride, padding and dilation; each
    group of channels is a layer of its own.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, layer.in_features)
    if layer.padding_mode == "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice)
    else:
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    patches = F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    images, _, positions = patches.shape
    grouped = patches.reshape(images, layer.groups, -1, positions)
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


def weight_matrix(layer: Layer) -> Tensor:
    """Return the weight as (groups, out / groups, d)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    out = layer.weight.shape[0]
    return layer.weight.detach().reshape(groups, out // groups, -1)


def second_moments(model: Classifier, images: ImageSet, *, batch: int = 100) -> dict[str, Tensor]:
    """Return `A^T A` of the inputs A of every layer, (groups, d, d) in float64.

    The moment is not centred (paper A, algorithm 1) and sums over images, so moments of disjoint
    sets add. `model` is only read.

    Raises:
        InputError: a layer is never called, so that what it reads cannot be seen.
    """
    layers = editable_layers(model.network)
    total = {name: _zeros(layer) for name, layer in layers.items()}
    reached: set[str] = set()

    with ExitStack() as hooks, torch.no_grad():
        for name, layer in layers.items():

            def add_(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                reached.add(name)
                for part in _chunks(layers[name], inputs[0]):
                    rows = layer_rows(layers[name], part)
                    total[name] += (rows.mT @ rows).double()

            hooks.callback(layer.register_forward_pre_hook(add_).remove)
        for image, _ in images.batches(batch):
            model(image.to(model.mean))
    bypassed = [name for name in layers if name not in reached]
    if bypassed:
        raise InputError(
            f"{model.arch.name} never calls {', '.join(bypassed[:5])}: it multiplies with their "
            "weights by itself, as torch's MultiheadAttention does, and what they read is not seen"
        )
    return total


def _zeros(layer: Layer) -> Tensor:
    groups, _, d = weight_matrix(layer).shape
    return torch.zeros(groups, d, d, dtype=torch.float64, device=layer.weight.device)


def _chunks(layer: Layer, x: Tensor) -> Iterator[Tensor]:
    """Yield slices of the batch `x` whose unfolded rows stay below a fixed size."""
    if isinstance(layer, nn.Linear):
        yield x
        return
    per_image = x[0].numel() * layer.kernel_size[0] * layer.kernel_size[1]
    per_image //= layer.stride[0] * layer.stride[1]
    yield from x.split(max(1, _ROWS_AT_ONCE // max(1, per_image)))
