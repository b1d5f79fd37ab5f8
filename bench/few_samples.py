"""SVD unlearning from few images: what is left and what it costs, by how many each side has."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bandstop.bench.classes import Row, row, summary
from bandstop.cli.output import say
from bandstop.cli.settings import given_settings
from bandstop.edit.accuracy import logits
from bandstop.edit.classifier import Classifier
from bandstop.edit.data_for import data_for
from bandstop.edit.edits import edited
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.images import DataSplits
from bandstop.edit.load import load_model
from bandstop.edit.methods import configured, preset
from bandstop.edit.request import ForgetRequest, parse_forget
from bandstop.edit.svd import SVD
from bandstop.edit.unlearn import unlearn

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Point:
    """Test accuracies, 0..1, mean over the classes that were forgotten one at a time.

    Attributes:
        retain_per_class: training images of each class to keep.
        forget_images: training images of the class to forget.
        original: accuracy on the classes to keep, before.
        retain: the same of the edited network.
        forget: accuracy on the forgotten class.
        worst: the highest of these.
        without_edit: classes for which no grid point was better than the unedited network; they
            count with the accuracies of the original.
    """

    retain_per_class: int
    forget_images: int
    original: float
    retain: float
    forget: float
    worst: float
    without_edit: int


@app.command(name="few-samples")
def run(
    model: Annotated[str, typer.Option(help="See bandstop unlearn.")],
    data: Annotated[str, typer.Option(help="See bandstop unlearn.")],
    forget: Annotated[str, typer.Option(help="These classes, one at a time.")],
    retain_per_class: Annotated[
        list[int] | None, typer.Option(min=1, help="Repeat for more; 10, 30, 100.")
    ] = None,
    forget_images: Annotated[
        list[int] | None, typer.Option(min=1, help="Repeat for more; 30, 100, 900.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the figure here, as .svg.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the method.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forget classes by few images and print what is left, on test images."""
    given = given_settings(None, [*(settings or []), f"seed={seed}"])
    method = configured(preset("svd", "default"), given)
    if not isinstance(method, SVD):
        raise InputError(f"expected settings of svd, got those of {method.name}")
    splits = data_for(model, data, seed=seed)
    parent = load_model(model, splits)
    classes = parse_forget(forget, parent.class_names).classes
    counts = (retain_per_class or [10, 30, 100], forget_images or [30, 100, 900])
    points = []
    for point in sweep(parent, method, classes, splits, *counts):
        points.append(point)
        say(describe(point))
    if plot:
        plot.write_bytes(svg(points))
    if as_json:
        typer.echo(json.dumps([asdict(p) for p in points]))
    else:
        Console().print(table(points))


def sweep(
    parent: Classifier,
    method: SVD,
    classes: Sequence[int],
    data: DataSplits,
    retain_per_class: Sequence[int],
    forget_images: Sequence[int],
) -> Iterator[Point]:
    """Yield one point for each pair of counts; the grid is judged on the validation images."""
    before = logits(parent, data.test)
    for kept in retain_per_class:
        for gone in forget_images:
            others = parent.num_classes - 1
            few = replace(method, retain_images=kept * others, forget_images=gone)
            rows, without = [], 0
            for c in classes:
                try:
                    folded, edit = unlearn(parent, few, ForgetRequest((c,)), data)
                    after = logits(edited(folded, edit, (c,)), data.test)
                except NothingForgottenError:
                    after, without = before, without + 1
                rows.append(row((c,), data.test.labels, before, after, None, {}))
            yield _point(kept, gone, rows, without)


def svg(points: Sequence[Point]) -> bytes:
    """Return the figure as SVG, of the same points the same bytes."""
    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "bandstop", "svg.fonttype": "none"}):
        figure(points).savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def figure(points: Sequence[Point]) -> Figure:
    """Return two panels, what is left and what is kept, by the number of images to forget."""
    made = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = made.subplots(1, 2)
    for kept in sorted({p.retain_per_class for p in points}):
        line = sorted(
            (p.forget_images, 100 * p.forget, 100 * p.retain)
            for p in points
            if p.retain_per_class == kept
        )
        images, gone, rest = zip(*line, strict=True)
        left.plot(images, gone, marker="o", label=f"{kept} a retained class")
        right.plot(images, rest, marker="o")
    right.axhline(100 * points[0].original, color="grey", linestyle="--")
    right.annotate(
        "original",
        (1, 100 * points[0].original),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="grey",
    )
    titles = ("accuracy on the forgotten class, %", "accuracy on the others, %")
    for axes, title in zip((left, right), titles, strict=True):
        axes.set_xscale("log")
        axes.set_xlabel("images of the class to forget")
        axes.set_title(title)
        axes.set_xticks(sorted({p.forget_images for p in points}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
    left.set_ylim(0, max(5.0, left.get_ylim()[1]))  # or a line at zero has an axis of hundredths
    left.legend(frameon=False)
    return made


def describe(p: Point) -> str:
    """Return a point as a line."""
    return (
        f"{p.retain_per_class} a retained class, {p.forget_images} to forget: "
        f"forget {p.forget:.2%} (worst {p.worst:.2%}), retain {p.original:.2%} -> {p.retain:.2%}"
    )


def table(points: Sequence[Point]) -> Table:
    """Return the points as a table."""
    made = Table("a retained class", "to forget", "forget (worst)", "retain", "original", "no edit")
    for p in points:
        made.add_row(
            str(p.retain_per_class),
            str(p.forget_images),
            f"{p.forget:.2%} ({p.worst:.2%})",
            f"{p.retain:.2%}",
            f"{p.original:.2%}",
            str(p.without_edit),
        )
    return made


def _point(kept: int, gone: int, rows: Sequence[Row], without: int) -> Point:
    means: Mapping[str, float] = summary(rows)
    return Point(
        retain_per_class=kept,
        forget_images=gone,
        original=means["original_retain_acc"],
        retain=means["test_retain_acc"],
        forget=means["test_forget_acc"],
        worst=means["worst_test_forget_acc"],
        without_edit=without,
    )
