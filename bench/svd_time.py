"""SVD unlearning, ours against the paper's way: layer by layer, and all classes against one."""

from collections.abc import Iterable, Mapping
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
from bandstop.edit.moments import editable_layers, second_moments, weight_matrix
from bandstop.edit.progress import progress
from bandstop.edit.projection import Space, normalise_, without_forget_space
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD


@dataclass(frozen=True, slots=True)
class Timed:
    """A layer shape with the time of both sides, without the layer's inputs."""

    name: str
    d: int
    out: int
    count: int
    comparison: Comparison

    def as_json(self) -> dict[str, object]:
        """Return the row of the table."""
        head = {"layer": self.name, "d": self.d, "out": self.out, "count": self.count}
        return head | self.comparison.as_json()


def edit(model: Classifier, retain: ImageSet, forget: ImageSet, paper: Paper) -> dict[str, Tensor]:
    """Return the edited weight matrix (out, d) of every layer by our way; every row is used."""
    return _edited(model, second_moments(model, retain), second_moments(model, forget), paper)


def layer_times(shapes: Iterable[Shape], paper: Paper, rounds: int, slow: int) -> list[Timed]:
    """Return the time of both sides for each shape.

    Where d >= `slow` there is one round, and of the reference's two decompositions, which are of
    equally large matrices, one is measured and counted twice.
    """
    timed = []
    for shape in progress(list(shapes), "svd_time"):
        compared = _once(shape, paper) if shape.d >= slow else _rounds(shape, paper, rounds)
        timed.append(Timed(shape.name, shape.d, shape.out, shape.count, compared))
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


def _edited(
    model: Classifier,
    retain: Mapping[str, Space],
    forget: Mapping[str, Space],
    paper: Paper,
) -> dict[str, Tensor]:
    for space in (*retain.values(), *forget.values()):
        normalise_(space)
    edited = {}
    for name, layer in editable_layers(model.network).items():
        weight = weight_matrix(layer)
        edited[name] = without_forget_space(
            weight, retain[name], forget[name], paper.alpha_r, paper.alpha_f
        )[0]
    return edited
