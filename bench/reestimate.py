"""Whether new BatchNorm statistics bring a forgotten class back in an exported file.

The same attack on a network retrained without the class tells how much of it comes back of itself.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bandstop.edit.accuracy import forget_and_retain, logits
from bandstop.edit.data_for import data_for
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.bn_reestimate import reestimated as network_reestimated
from bandstop.edit.evaluation.observed import sample
from bandstop.edit.load import load_model
from bandstop.edit.method import split
from bandstop.edit.request import ForgetRequest, parse_forget
from bandstop.export.reestimate import file_logits, reestimated

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Row:
    """Test accuracies, 0..1, before the attack and after it.

    Attributes:
        name: the file, or retrained.
        norms: BatchNormalizations that were found in the file; None for a network.
        forget_before: of the forgotten classes.
        forget_after: the same.
        retain_before: of the others.
        retain_after: the same.
    """

    name: str
    norms: int | None
    forget_before: float
    forget_after: float
    retain_before: float
    retain_after: float


@app.command(name="reestimate")
def run(
    files: Annotated[
        list[Path], typer.Argument(help="Releases of bandstop export, or ONNX files.")
    ],
    retrained: Annotated[str, typer.Option(help="A checkpoint of train --without.")],
    data: Annotated[str, typer.Option(help="See bandstop train.")],
    forget: Annotated[str, typer.Option(help="The classes, as they were forgotten.")],
    images: Annotated[int, typer.Option(min=2, help="Unlabelled images.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of their choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take the statistics anew and print what became of the forgotten classes."""
    splits = data_for(retrained, data, seed=seed)
    classes = list(parse_forget(forget, splits.class_names).classes)
    kept = split(splits, ForgetRequest(classes=tuple(classes))).retain
    unlabelled = sample(kept, images, seed)
    labels = splits.test.labels
    rows = []
    for path in files:
        before = _bytes(path)
        after, norms = reestimated(before, unlabelled, classes)
        found = [file_logits(file, splits.test, classes) for file in (before, after)]
        pairs = [forget_and_retain(one.argmax(1), labels, classes) for one in found]
        rows.append(_row(str(path), norms, pairs))
    never = load_model(retrained, splits)
    attacked = network_reestimated(never, unlabelled)
    found = [logits(network, splits.test) for network in (never, attacked)]
    rows.append(
        _row("retrained", None, [forget_and_retain(o.argmax(1), labels, classes) for o in found])
    )
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
    else:
        Console().print(table(rows))


def table(rows: list[Row]) -> Table:
    """Return the rows in percent."""
    shown = Table("", "BatchNormalizations", "forgotten", "after", "rest", "after")
    for row in rows:
        values = (row.forget_before, row.forget_after, row.retain_before, row.retain_after)
        norms = "" if row.norms is None else str(row.norms)
        shown.add_row(row.name, norms, *(f"{100 * value:.2f}" for value in values))
    return shown


def _row(name: str, norms: int | None, pairs: list[tuple[float, float]]) -> Row:
    (forget_before, retain_before), (forget_after, retain_after) = pairs
    return Row(name, norms, forget_before, forget_after, retain_before, retain_after)


def _bytes(path: Path) -> bytes:
    file = path / "model.onnx" if path.is_dir() else path
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
