"""What forgetting each class in turn leaves and costs, on the test images.

Beside each row stand the original network, the logit mask (the trivial edit) and, where one was
trained, the network that never saw the class.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bandstop.cli.output import say
from bandstop.cli.settings import given_settings
from bandstop.edit.accuracy import forget_and_retain, logits
from bandstop.edit.checkpoint import describe_checkpoint
from bandstop.edit.classifier import Classifier
from bandstop.edit.data_for import data_for
from bandstop.edit.edits import Edit, edited
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.images import DataSplits
from bandstop.edit.load import load_model
from bandstop.edit.method import Method
from bandstop.edit.methods import configured, preset
from bandstop.edit.request import ForgetRequest, parse_forget
from bandstop.edit.stand_in import stand_in
from bandstop.edit.svd import SVD
from bandstop.edit.train import without_classes
from bandstop.edit.unlearn import every_class, unlearn, unlearn_each
from bandstop.edit.wf_net import WFNet

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Row:
    """Test accuracies, 0..1, when the classes `forget` are forgotten together.

    Attributes:
        forget: the classes.
        original: forget and retain accuracy of the network as it was.
        masked_retain: retain accuracy when only these logits are taken away; forget is 0.
        edited: forget and retain accuracy of the edited network.
        worst: the highest accuracy of a forgotten class in the edited network.
        retrained: the same of a network trained without these classes; None where there is none.
        found: what the method chose for these classes.
    """

    forget: tuple[int, ...]
    original: tuple[float, float]
    masked_retain: float
    edited: tuple[float, float]
    worst: float
    retrained: tuple[float, float] | None = None
    found: Mapping[str, object] | None = None


@app.command(name="classes")
def run(
    method: Annotated[str, typer.Argument(help="svd or wf-net.")],
    model: Annotated[str, typer.Option(help="See bandstop unlearn.")],
    data: Annotated[str, typer.Option(help="See bandstop unlearn.")],
    preset_name: Annotated[str, typer.Option("--preset", help="Of the method.")] = "default",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, on top of the preset.")
    ] = None,
    forget: Annotated[
        str | None, typer.Option(help="These classes, one at a time; all when left out.")
    ] = None,
    together: Annotated[
        int, typer.Option(min=1, help="Classes a row; above 1 random sets, wf-net only.")
    ] = 1,
    sets: Annotated[int, typer.Option(min=1, help="How many random sets.")] = 20,
    each: Annotated[
        bool, typer.Option("--each", help="svd: all classes from one pass over the images.")
    ] = False,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="svd: each class on top of those before it.")
    ] = False,
    retrained: Annotated[
        list[Path] | None, typer.Option(help="Checkpoints of bandstop train --without.")
    ] = None,
    standing_in: Annotated[
        str | None, typer.Option("--stand-in", help="See bandstop unlearn: no training images.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the method and of the random sets.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forget each class in turn and print what is left, on test images."""
    given = given_settings(None, [*(settings or []), f"seed={seed}"])
    chosen = configured(preset(method, preset_name), given)
    splits = data_for(model, data, seed=seed)
    parent = load_model(model, splits)
    names = parent.class_names
    wanted = range(len(names)) if forget is None else parse_forget(forget, names).classes
    reference = _references(retrained or [], splits)
    before = logits(parent, splits.test)
    learnt = splits if standing_in is None else stand_in(parent, standing_in, seed=seed)
    rows, seconds = [], 0.0
    started = time.perf_counter()
    made = (
        in_sequence(parent, chosen, wanted, learnt)
        if sequential
        else edits(parent, chosen, tuple(wanted), learnt, together, sets, each)
    )
    for classes, folded, edit in made:
        seconds += time.perf_counter() - started
        after = logits(edited(folded, edit, classes), splits.test)
        found = {k: v for k, v in edit.found.items() if isinstance(v, int | float | str)}
        scores = (before, after, reference.get(classes))
        rows.append(row(classes, splits.test.labels, *scores, found))
        say(describe(rows[-1], names))
        started = time.perf_counter()
    if as_json:
        report = summary(rows) | {"seconds": seconds, "rows": [asdict(r) for r in rows]}
        typer.echo(json.dumps(report))
    else:
        Console().print(table(rows, names, seconds))


def edits(
    parent: Classifier,
    method: Method,
    wanted: Sequence[int],
    data: DataSplits,
    together: int,
    sets: int,
    each: bool,
) -> Iterator[tuple[tuple[int, ...], Classifier, Edit]]:
    """Yield the classes forgotten, the folded network and the edit that forgets them.

    Raises:
        InputError: a combination that the method does not have.
    """
    if together > 1 and not isinstance(method, WFNet):
        raise InputError(f"{method.name}: random sets are for wf-net; leave out --together")
    if each and not isinstance(method, SVD):
        raise InputError(f"{method.name}: one pass for all classes is for svd; leave out --each")
    if isinstance(method, WFNet):
        folded, edit = unlearn(parent, method, every_class(parent), data)
        for classes in rows_of(wanted, together, sets, method.seed):
            yield classes, folded, edit
    elif isinstance(method, SVD) and each:
        folded, found = unlearn_each(parent, method, wanted, data)
        for c, made in found:
            if isinstance(made, NothingForgottenError):
                say(str(made))
            else:
                yield (c,), folded, made
    else:
        for c in wanted:
            yield (c,), *unlearn(parent, method, ForgetRequest((c,)), data)


def in_sequence(
    parent: Classifier, method: Method, wanted: Sequence[int], data: DataSplits
) -> Iterator[tuple[tuple[int, ...], Classifier, Edit]]:
    """Yield the classes forgotten so far, the network before the last step and its edit.

    A class that is forgotten already is neither retained nor forgotten again.
    """
    model, gone = parent, tuple[int, ...]()
    for c in wanted:
        folded, edit = unlearn(model, method, ForgetRequest((c,)), without_classes(data, gone))
        gone = (*gone, c)
        yield gone, folded, edit
        model = edited(folded, edit, gone)


def rows_of(classes: Sequence[int], together: int, sets: int, seed: int) -> list[tuple[int, ...]]:
    """Return each class alone, or `sets` random sets of `together` of them."""
    if together == 1:
        return [(c,) for c in classes]
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(len(classes), generator=generator)[:together] for _ in range(sets)]
    return [tuple(sorted(classes[int(i)] for i in one)) for one in drawn]


def row(
    classes: tuple[int, ...],
    labels: Tensor,
    before: Tensor,
    after: Tensor,
    retrained: Tensor | None,
    found: Mapping[str, object],
) -> Row:
    """Return what logits (n, num_classes) of each network say of `classes` and of the others."""
    masked = before.clone()
    masked[:, list(classes)] = -torch.inf

    def accuracies(scores: Tensor) -> tuple[float, float]:
        return forget_and_retain(scores.argmax(1), labels, classes)

    return Row(
        classes,
        original=accuracies(before),
        masked_retain=accuracies(masked)[1],
        edited=accuracies(after),
        worst=max(forget_and_retain(after.argmax(1), labels, [c])[0] for c in classes),
        retrained=None if retrained is None else accuracies(retrained),
        found=found,
    )


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Return means over the rows, and the worst ones."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    return {
        "original_retain_acc": mean([r.original[1] for r in rows]),
        "masked_retain_acc": mean([r.masked_retain for r in rows]),
        "test_retain_acc": mean([r.edited[1] for r in rows]),
        "test_forget_acc": mean([r.edited[0] for r in rows]),
        "worst_test_forget_acc": max(r.worst for r in rows),
        "worst_test_retain_loss": max(r.original[1] - r.edited[1] for r in rows),
    }


def describe(row: Row, names: Sequence[str]) -> str:
    """Return a row as a line."""
    who = "+".join(names[c] for c in row.forget)
    (f0, r0), (f1, r1) = row.original, row.edited
    return f"{who}: forget {f0:.2%} -> {f1:.2%}, retain {r0:.2%} -> {r1:.2%}"


def table(rows: Sequence[Row], names: Sequence[str], seconds: float) -> Table:
    """Return the rows and their mean as a table."""
    made = Table("forgotten", "forget before", "forget", "retain before", "retain", "logit mask")
    for heading in ("retrained", "chosen"):
        made.add_column(heading)
    for r in rows:
        made.add_row(
            "+".join(names[c] for c in r.forget),
            *(f"{v:.2%}" for v in (r.original[0], r.edited[0], r.original[1], r.edited[1])),
            f"{r.masked_retain:.2%}",
            "" if r.retrained is None else f"{r.retrained[1]:.2%}",
            " ".join(f"{k}={v:.4g}" for k, v in (r.found or {}).items() if isinstance(v, float)),
        )
    s = summary(rows)
    made.add_section()
    made.add_row(
        f"mean of {len(rows)} ({seconds:.0f} s)",
        "",
        f"{s['test_forget_acc']:.2%} (worst {s['worst_test_forget_acc']:.2%})",
        f"{s['original_retain_acc']:.2%}",
        f"{s['test_retain_acc']:.2%}",
        f"{s['masked_retain_acc']:.2%}",
    )
    return made


def _references(paths: Sequence[Path], data: DataSplits) -> dict[tuple[int, ...], Tensor]:
    """Return the test logits of each retrained network by the classes that it never saw."""
    return {
        tuple(describe_checkpoint(path).without): logits(load_model(str(path), data), data.test)
        for path in paths
    }
