"""SVD unlearning, ours against the paper's way: layer by layer, and all classes against one."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from bandstop.bench.svd_reference import Paper, one_side, without_forget
from bandstop.bench.svd_reference import Space as PaperSpace
from bandstop.bench.svd_reference import edit as reference_edit
from bandstop.bench.timing import Comparison, Spent, interleaved, spent
from bandstop.bench.workload import Shape
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import NothingForgottenError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.method import Splits
from bandstop.edit.moments import editable_layers, weight_name
from bandstop.edit.progress import progress
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD
from bandstop.edit.svd_grid import Grid, unit_moments


@dataclass(frozen=True, slots=True)
class Timed:
    """A layer shape with the time of both sides, without the layer's inputs.

    Attributes:
        name: of the first such layer.
        d: columns of its weight matrix.
        out: rows of its weight matrix.
        count: how many layers have this shape.
        counted_twice: whether one side of the reference was measured and counted for both.
        comparison: the seconds.
    """

    name: str
    d: int
    out: int
    count: int
    counted_twice: bool
    comparison: Comparison

    def as_json(self) -> dict[str, object]:
        """Return the row of the table."""
        head = {"layer": self.name, "d": self.d, "out": self.out, "count": self.count}
        flag = {"reference_side_counted_twice": self.counted_twice}
        return head | self.comparison.as_json() | flag


def edit(model: Classifier, retain: ImageSet, forget: ImageSet, paper: Paper) -> dict[str, Tensor]:
    """Return the edited weight matrix (out, d) of every layer by our way, of as many rows."""
    layers = editable_layers(model.network)
    spaces = [
        unit_moments(model, images, layers, paper.our_rows, paper.seed)
        for images in (retain, forget)
    ]
    edited = Grid(layers, *spaces, keep_factors=False).weights(paper.alpha_r, paper.alpha_f)
    return {name: edited[weight_name(name, m)].flatten(1) for name, m in layers.items()}


def layer_times(
    shapes: Iterable[Shape], paper: Paper, rounds: int, slow: int, slowest: int
) -> list[Timed]:
    """Return the time of both sides for each shape.

    Where d >= `slow` there is one round. Where d >= `slowest`, of the reference's two
    decompositions, which are of equally large matrices, one is measured and counted twice.
    """
    timed = []
    for shape in progress(list(shapes), "svd_time"):
        twice = shape.d >= slowest
        times = 1 if shape.d >= slow else rounds
        compared = _once(shape, paper) if twice else _rounds(shape, paper, times)
        timed.append(Timed(shape.name, shape.d, shape.out, shape.count, twice, compared))
    return timed


def _rounds(shape: Shape, paper: Paper, rounds: int) -> Comparison:
    images = (shape.model, shape.retain, shape.forget, paper)
    return interleaved(lambda: edit(*images), lambda: reference_edit(*images), rounds)


def _once(shape: Shape, paper: Paper) -> Comparison:
    ours = spent(lambda: edit(shape.model, shape.retain, shape.forget, paper))
    spaces: dict[str, PaperSpace] = {}
    side = spent(lambda: spaces.update(one_side(shape.model, shape.retain, paper)))
    rest = spent(lambda: without_forget(shape.model, spaces, spaces, paper))
    both = Spent(2 * side.wall + rest.wall, 2 * side.cpu + rest.cpu)
    return Comparison((ours,), (both,))


def network_ratio(timed: list[Timed]) -> float:
    """Return ours / reference of a whole network: medians, summed by layer count."""
    ours = sum(t.count * t.comparison.ours_s for t in timed)
    return ours / sum(t.count * t.comparison.reference_s for t in timed)


def all_classes(
    setting: SVD, model: Classifier, one: Splits, every: DataSplits, rounds: int
) -> Comparison:
    """Return the time of the edits of all classes from one pass, and of the edit of class 0."""

    def all_of_them() -> None:
        for _ in setting.each(model, range(model.num_classes), every):
            pass

    def one_of_them() -> None:
        # a network of random weights may have nothing to forget, which is found after the edit
        with suppress(NothingForgottenError):
            setting(model, ForgetRequest(classes=(0,)), one)

    return interleaved(all_of_them, one_of_them, rounds)
