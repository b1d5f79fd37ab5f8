"""Second moments of what each layer reads, summed over images; no image's activation is kept."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from bandstop.edit import team
from bandstop.edit.attention import SelfAttention
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.moment_sum import MomentSum, add_gram_, mirror_, zeros
from bandstop.edit.patches import output_size, patches, patches_at
from bandstop.edit.projection import Rows, Space

Layer = nn.Conv2d | nn.Linear | SelfAttention
_ROWS_AT_ONCE = 1 << 21  # elements of unfolded input that are held at a time (8 MB of float32)
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


def layer_rows(layer: Layer, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Return the inputs that `layer` multiplies with its weight matrix, (groups, n, d).

    Linear and attention: one row per vector or token. Conv2d: one row per output position, in the
    order of the flattened weight (channel, row, column), with the layer's own stride, padding and
    dilation; each group of channels is a layer of its own.

    Args:
        layer: what reads.
        x: what it reads.
        positions: only these output positions or tokens of each image, (images, k) int64.
    """
    if isinstance(layer, nn.Conv2d):
        return patches(layer, x) if positions is None else patches_at(layer, x, positions)
    if positions is None:
        return x.reshape(1, -1, x.shape[-1])
    tokens = x.reshape(len(positions), -1, x.shape[-1])
    return tokens.take_along_dim(positions[:, :, None], 1).flatten(0, 1)[None]


def second_moments(
    model: Classifier,
    images: ImageSet,
    *,
    batch: int = 100,
    layers: Collection[str] | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> dict[str, Space]:
    """Return `A^T A` of the inputs A of every layer, (groups, d, d).

    The moment is not centred (paper A, algorithm 1) and sums over images, so moments of disjoint
    sets add. A layer that reads at most d / 2 rows keeps them instead, so that no (d, d) matrix is
    made. `model` is only read.

    With `max_rows` a layer reads about as many rows: `max_rows / len(images)`, at least one, of
    every image, at places that are drawn image by image and so do not depend on `batch`. A linear
    layer on vectors, which has one row an image, reads them all.

    Processes of a team divide the batches, and each returns the moments of all images.

    Args:
        model: what reads the images.
        images: in [0, 1].
        batch: images at a time.
        layers: names of the layers to watch; None for all.
        max_rows: of a layer; None for every row.
        seed: draws the rows.

    Raises:
        InputError: a layer is never called or multiplies with something other than its weight, so
            that what it reads cannot be seen.
        DivergedError: a layer reads what is not finite.
    """
    watched = editable_layers(model.network)
    watched = {n: m for n, m in watched.items() if layers is None or n in layers}
    most = None if max_rows is None else max(1, max_rows // max(1, len(images)))
    readers = {name: _Reader(name, m, len(images), most, seed) for name, m in watched.items()}
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in watched.items():
            hook = layer.register_forward_hook(readers[name].read_, with_kwargs=True)
            hooks.callback(hook.remove)
        if team.rank() > 0:
            _rehearse(model, images, batch, readers)
        for number, image, _ in team.batches(images, batch):
            _read(model, image, readers, number)
    bypassed = [name for name in watched if readers[name].sum is None]
    if bypassed and len(images):
        raise InputError(
            f"{model.arch.name} never calls {', '.join(bypassed[:5])}: it multiplies with their "
            "weights by itself, as torch's MultiheadAttention does, and what they read is not seen"
        )
    moments = {name: reader.space() for name, reader in readers.items()}
    wild = [name for name, moment in moments.items() if not _finite(moment)]
    if wild:
        raise DivergedError(
            f"{model.arch.name}: what {wild[0]} reads is not finite; are its weights?"
        )
    return moments


def add_moment_(total: Tensor, space: Space, scale: float = 1) -> None:
    """Add `scale` times a second moment to `total` (groups, d, d)."""
    if isinstance(space, Rows):
        add_gram_(total, space.rows, scale)
        mirror_(total)
    else:
        total.add_(space, alpha=scale)


def summed(spaces: Sequence[Space]) -> Tensor:
    """Return the sum of second moments, at least one, as a matrix (groups, d, d)."""
    first = spaces[0].rows if isinstance(spaces[0], Rows) else spaces[0]
    total = zeros(first, len(first), first.shape[-1])
    for space in spaces:
        add_moment_(total, space)
    return total


class _Reader:
    """Sums what one layer reads, batch by batch."""

    def __init__(self, name: str, layer: Layer, images: int, most: int | None, seed: int) -> None:
        """Start at zero; of each of `images` at most `most` rows are read."""
        self.name = name
        self.layer = layer
        self.images = images
        self.most = most
        self.generator = torch.Generator().manual_seed(seed)
        self.sum: MomentSum | None = None
        self.batch, self.size, self.counts = -1, 0, True  # which one is read, and whether it counts
        self.drawn = 0  # random numbers for the first batch

    def turn_to_(self, batch: int, size: int, *, counts: bool = True) -> None:
        """Get ready to read the batch number `batch` of `size` images.

        The numbers for those in between, which others read, are drawn too: so an image's rows do
        not depend on who reads it.
        """
        for _ in range(self.batch + 1, batch):
            torch.rand(self.drawn, generator=self.generator)
        self.batch, self.size, self.counts = batch, size, counts

    def read_(
        self, _m: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], y: Tensor
    ) -> None:
        """Add the rows of what the layer is called with, as a forward hook."""
        x = args[0] if args else next(iter(kwargs.values()))
        if self.sum is None:
            _check_seen(self.name, self.layer, x[:1], y)
        positions = self._positions(x)
        if self.sum is None:
            read = _row_count(self.layer, x) if positions is None else positions.numel()
            groups, _, d = weight_matrix(self.layer).shape
            few = 2 * read * self.images <= d * self.size
            self.sum = MomentSum(x, groups, d, keep_rows=few)
        if self.counts:
            for part, at in _chunks(self.layer, x, positions):
                self.sum.add_(layer_rows(self.layer, part, at))

    def _positions(self, x: Tensor) -> Tensor | None:
        """Return which rows of each image are read, (images, k); None for all."""
        if self.most is None or (isinstance(self.layer, nn.Linear) and x.ndim == 2):
            return None
        # windows of tokens lie side by side and belong to one image
        apart = isinstance(self.layer, nn.Conv2d) or len(x) % self.size
        parts = len(x) if apart else self.size
        there = _row_count(self.layer, x) // parts
        if there <= self.most:
            return None
        drawn = torch.rand(parts, there, generator=self.generator)
        if self.batch == 0:
            self.drawn += drawn.numel()
        return drawn.topk(self.most, dim=1).indices.to(x.device)

    def space(self) -> Space:
        """Return what the team summed, of a layer that was called."""
        assert self.sum is not None
        return self.sum.space()


def _read(
    model: Classifier,
    image: Tensor,
    readers: Mapping[str, _Reader],
    batch: int,
    *,
    counts: bool = True,
) -> None:
    for reader in readers.values():
        reader.turn_to_(batch, len(image), counts=counts)
    model(image.to(model.mean))


def _rehearse(
    model: Classifier, images: ImageSet, batch: int, readers: Mapping[str, _Reader]
) -> None:
    """Let the readers see a batch like the first one, which another process reads.

    So they all refuse the same layers, keep rows or a matrix alike and know what a batch draws,
    even where there is no batch for this process.
    """
    for image, _ in images.take(torch.arange(min(1, len(images)))).batches(1):
        many = image.expand(min(batch, len(images)), *image.shape[1:])
        _read(model, many, readers, 0, counts=False)


def _row_count(layer: Layer, x: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return len(x) * math.prod(output_size(layer, x))
    return x.numel() // x.shape[-1]


def _finite(space: Space) -> bool:
    values = space.rows if isinstance(space, Rows) else space.diagonal(dim1=-2, dim2=-1)
    return bool(torch.isfinite(values).all())


def _chunks(
    layer: Layer, x: Tensor, positions: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield slices of the batch `x` whose unfolded rows stay below a fixed size."""
    if not isinstance(layer, nn.Conv2d):
        yield x, positions
        return
    each = math.prod(output_size(layer, x)) if positions is None else positions.shape[1]
    size = max(1, _ROWS_AT_ONCE // max(1, each * x.shape[1] * math.prod(layer.kernel_size)))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield x[part], positions if positions is None else positions[part]


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
