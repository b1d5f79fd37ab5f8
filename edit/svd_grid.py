"""What SVD unlearning computes with: the chosen layers, their moments, the edit at a grid point."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.moments import (
    Layer,
    add_moment_,
    editable_layers,
    second_moments,
    summed,
    weight_matrix,
    weight_name,
    weight_of,
)
from bandstop.edit.patterns import check_patterns, matches
from bandstop.edit.projection import (
    DOUBLE_UP_TO,
    Rows,
    Space,
    energy,
    factor,
    normalise_,
    not_shared,
    without_forget_space,
)

Weights = dict[str, Tensor]  # parameter name -> edited weight
Spaces = Mapping[str, Space]  # layer name -> normalised second moment
_KEPT_FACTORS = 1 << 30  # bytes; a factor that no longer fits is made again when it is needed
_KEPT_MOMENTS = 2 << 30  # bytes of single classes' moments
_CLASS_ROWS = 2000  # of a layer, at least, where all classes are read in one pass


def chosen_layers(
    network: nn.Module, layers: Sequence[str], exclude: Sequence[str], last: int | None
) -> dict[str, Layer]:
    """Return the layers that match a pattern of `layers` and none of `exclude`; of these the last.

    Raises:
        InputError: a pattern matches no layer, or nothing is left.
    """
    known = editable_layers(network)
    check_patterns("svd", (*layers, *exclude), list(known))
    names = [name for name in known if matches(name, layers) and not matches(name, exclude)]
    if not names:
        raise InputError("svd: no layer is left to edit; see layers and exclude")
    return {name: known[name] for name in names[-last if last else None :]}


def layer_strengths(layers: Sequence[str], depth: float, head: float) -> dict[str, float]:
    """Return by what the change of each layer is multiplied, `(l / L) ** depth`; the last: `head`.

    Args:
        layers: names from the first, l = 1, to the last, l = L.
        depth: 0 changes all layers alike, as in the paper. What early layers read is shared by all
            classes, so changing them costs more than it removes.
        head: 1 as in the paper. Projected onto what is shared, a forgotten image keeps a logit of
            its class around zero, which may still be the highest; 2 turns it to the other side.
    """
    count = len(layers)
    strengths = {name: (i / count) ** depth for i, name in enumerate(layers, 1)}
    return strengths | {layers[-1]: head}


def unit_moments(
    model: Classifier,
    images: ImageSet,
    layers: Mapping[str, Layer],
    max_rows: int | None = None,
    seed: int = 0,
) -> Spaces:
    """Return the normalised second moment of what each of `layers` reads, of `max_rows` at most."""
    moments = second_moments(model, images, layers=layers, max_rows=max_rows, seed=seed)
    for moment in moments.values():
        normalise_(moment)
    return moments


class Grid:
    """Edited weights at any grid point; half-products, and factors that fit, are made once."""

    def __init__(
        self,
        layers: Mapping[str, Layer],
        retain: Spaces,
        forget: Spaces,
        *,
        strengths: Mapping[str, float] | None = None,
        keep_factors: bool = True,
    ) -> None:
        """Keep the layers and the normalised moments of both sides.

        Args:
            layers: what is edited.
            retain: moments of what is kept.
            forget: moments of what is forgotten.
            strengths: by what each layer's change is multiplied; None: 1, as in the paper.
            keep_factors: whether any alpha_f comes again with another alpha_r.
        """
        self.keep_factors = keep_factors
        self.layers = layers
        self.strengths = strengths or dict.fromkeys(layers, 1.0)
        self.retain = retain
        self.forget = forget
        self._not_shared: tuple[float, Weights] = (-1.0, {})
        self._factors: dict[tuple[str, float], Tensor] = {}
        self._last: tuple[float, float, Weights] = (-1.0, -1.0, {})

    def weights(self, alpha_r: float, alpha_f: float) -> Weights:
        """Return the edited weight of every layer, `W - strength W (I - P_r) P_f`."""
        if self._last[:2] != (alpha_r, alpha_f):
            self._last = (alpha_r, alpha_f, self._edited(alpha_r, alpha_f))
        return self._last[2]

    def _edited(self, alpha_r: float, alpha_f: float) -> Weights:
        if self._not_shared[0] != alpha_r:
            self._not_shared = (-1.0, {})  # frees the last one first
            self._not_shared = (
                alpha_r,
                {
                    n: not_shared(_matrix(m), self.retain[n], alpha_r)
                    for n, m in self.layers.items()
                },
            )
        edited = {}
        for name, layer in self.layers.items():
            matrix, strength = _matrix(layer), self.strengths[name]
            weight = without_forget_space(
                matrix,
                self.retain[name],
                self.forget[name],
                alpha_r,
                alpha_f,
                rest=self._not_shared[1][name],
                cholesky=self._factor(name, alpha_f),
            )
            if strength != 1:
                weight = matrix + strength * (weight - matrix)
            old = weight_of(layer)
            edited[weight_name(name, layer)] = weight.reshape(old.shape).to(old.dtype)
        return edited

    def report(self, weights: Weights) -> dict[str, dict[str, float]]:
        """Return what `weights` do to each layer, by the name of its weight.

        `relative_change` of the weight, and the share of the mean squared output that is gone on
        the rows of the images to forget (`forget_removed`) and to retain (`retain_removed`).
        """
        change: dict[str, float] = {}
        forget: dict[str, float] = {}
        retain: dict[str, float] = {}
        for name, layer in self.layers.items():
            key, old = weight_name(name, layer), _matrix(layer)
            new = weights[key].reshape(old.shape).to(old.dtype)
            change[key] = float((new - old).norm()) / _or_one(float(old.norm()))
            forget[key] = _removed(old, new, self.forget[name])
            retain[key] = _removed(old, new, self.retain[name])
        return {"relative_change": change, "forget_removed": forget, "retain_removed": retain}

    def _factor(self, name: str, alpha: float) -> Tensor | None:
        if not alpha or (name, alpha) in self._factors:
            return self._factors.get((name, alpha))
        made = factor(self.forget[name], alpha)
        if not self.keep_factors:
            return made
        if sum(f.nbytes for f in self._factors.values()) + made.nbytes <= _KEPT_FACTORS:
            self._factors[name, alpha] = made
        return made


class ClassMoments:
    """Second moments of each class and of all classes, from one pass over the images.

    Moments of single classes are kept as far as they fit; the others are summed again, from their
    own images, when they are asked for.

    Of the rows of a layer every class has an equal share, at least two thousand: ten classes read
    as many together as one side of the edit of a single class. What a class retains is all of them
    but its own.
    """

    def __init__(
        self,
        model: Classifier,
        images: ImageSet,
        layers: Mapping[str, Layer],
        max_rows: int | None = None,
        seed: int = 0,
    ) -> None:
        """Read every image once."""
        self.classes = tuple(int(c) for c in images.labels.unique())
        self._few: dict[str, dict[int, Rows]] = {}  # layer -> class, where all rows are few
        self._total: dict[str, Tensor] = {}
        self._kept: dict[int, Mapping[str, Space]] = {}
        share = max_rows and min(max_rows, max(_CLASS_ROWS, max_rows // len(self.classes)))
        self._of = partial(_moments_of_class, model, images, layers, share, seed)
        room = _KEPT_MOMENTS
        for c in self.classes:
            moments = self._of(c)
            for name, moment in moments.items():
                self._add_(name, c, moment)
            room -= sum(_bytes(moment) for moment in moments.values())
            if room >= 0:
                self._kept[c] = moments

    def unit(self, c: int) -> tuple[Spaces, Spaces]:
        """Return the normalised moments of all other classes, and of class `c`."""
        retain: dict[str, Space] = {}
        forget: dict[str, Space] = {}
        for name, moment in (self._kept.get(c) or self._of(c)).items():
            retain[name] = self._without(name, c, moment)
            forget[name] = _copy(moment)
            normalise_(retain[name])
            normalise_(forget[name])
        return retain, forget

    def _add_(self, name: str, c: int, moment: Space) -> None:
        if name in self._total:
            add_moment_(self._total[name], moment)
            return
        before = self._few.pop(name, {})
        if isinstance(moment, Rows):
            few = before | {c: moment}
            if 2 * sum(r.rows.shape[1] for r in few.values()) <= moment.rows.shape[-1]:
                self._few[name] = few
                return
        self._total[name] = summed([*before.values(), moment])

    def _without(self, name: str, c: int, moment: Space) -> Space:
        if name in self._few:
            return Rows(torch.cat([r.rows for k, r in self._few[name].items() if k != c], dim=1))
        left = self._total[name].clone()
        add_moment_(left, moment, -1)
        return left


def _moments_of_class(
    model: Classifier,
    images: ImageSet,
    layers: Mapping[str, Layer],
    max_rows: int | None,
    seed: int,
    c: int,
) -> dict[str, Space]:
    own = images.of_classes([c])
    return second_moments(model, own, layers=layers, max_rows=max_rows, seed=seed)


def _copy(space: Space) -> Space:
    return Rows(space.rows.clone()) if isinstance(space, Rows) else space.clone()


def _bytes(space: Space) -> int:
    return space.rows.nbytes if isinstance(space, Rows) else space.nbytes


def _matrix(layer: Layer) -> Tensor:
    weight = weight_matrix(layer)
    return weight.double() if weight.shape[-1] <= DOUBLE_UP_TO else weight


def _removed(old: Tensor, new: Tensor, unit: Space) -> float:
    return 1 - energy(new, unit) / _or_one(energy(old, unit))


def _or_one(value: float) -> float:
    return value if value > 0 else 1.0
