"""What forgetting single training images leaves and costs: L2UL beside its ablations.

The instances are the first k of one random order of the training images, so that smaller sets lie
within larger ones.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bandstop.cli.output import say
from bandstop.cli.settings import given_settings
from bandstop.edit.accuracy import accuracy_on
from bandstop.edit.classifier import Classifier
from bandstop.edit.data_for import data_for
from bandstop.edit.edits import WeightEdit, edited
from bandstop.edit.errors import DivergedError, InputError, NothingForgottenError
from bandstop.edit.images import DataSplits
from bandstop.edit.journal import Journal
from bandstop.edit.judge import evenly
from bandstop.edit.l2ul import L2UL
from bandstop.edit.load import load_model
from bandstop.edit.methods import configured, preset
from bandstop.edit.request import ForgetRequest
from bandstop.edit.unlearn import unlearn

app = typer.Typer(add_completion=False)
VARIANTS: Mapping[str, Mapping[str, object]] = {
    "neg-grad": {"adversarial": 0, "penalty": 0.0},
    "adv": {"penalty": 0.0},
    "adv-imp": {},
    "relabel": {"goal": "relabel"},
}
_RETAINED = 2000  # training images that stay, for their accuracy


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracies, 0..1, after one run.

    Attributes:
        variant: see VARIANTS.
        k: how many instances were forgotten in this run.
        forget_acc: share of all instances forgotten so far that have their own label still.
        worst_set: the same of the set of an earlier run of a sequence that has most left.
        reached: share of this run's instances that are where they shall be.
        retain_acc: of training images that stay.
        test_acc: of test images.
        steps: of the run.
        seconds: of the run with all that it makes.
        status: how it ended.
    """

    variant: str
    k: int
    forget_acc: float
    worst_set: float
    reached: float
    retain_acc: float
    test_acc: float
    steps: int
    seconds: float
    status: str


@app.command(name="instances")
def run(
    model: Annotated[str, typer.Option(help="See bandstop unlearn.")],
    data: Annotated[str, typer.Option(help="See bandstop unlearn.")],
    k: Annotated[str, typer.Option("-k", help="How many instances, e.g. 16,64,256.")] = "16",
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help=f"Of {', '.join(VARIANTS)}; repeat.")
    ] = None,
    continual: Annotated[
        int, typer.Option(min=1, help="So many requests of k instances, one after the other.")
    ] = 1,
    preset_name: Annotated[str, typer.Option("--preset", help="Of l2ul.")] = "default",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, on top of the preset.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A folder for adversarial images, to be used again.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Read on validation images, not on test images.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the choice of instances and of the method.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forget random training images and print what is left."""
    chosen = configured(
        preset("l2ul", preset_name), given_settings(None, [*(settings or []), f"seed={seed}"])
    )
    if not isinstance(chosen, L2UL):
        raise InputError(f"expected settings of l2ul, got those of {chosen.name}")
    splits = data_for(model, data, seed=seed)
    if held_out:
        splits = replace(splits, test=splits.validate)
    parent = load_model(model, splits)
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(seed))
    say(f"before: {accuracy_on(parent, splits.test):.4f} of {len(splits.test)} images")
    rows = []
    for variant in variants or VARIANTS:
        method = configured(chosen, VARIANTS[variant])
        assert isinstance(method, L2UL)  # it was one before
        for count in [int(part) for part in k.split(",")]:
            sets = [order[i * count : (i + 1) * count] for i in range(continual)]
            for row in forgotten(parent, method, variant, sets, splits, cache):
                say(str(asdict(row)))
                rows.append(row)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
    else:
        Console().print(table(rows))


def forgotten(
    model: Classifier,
    method: L2UL,
    variant: str,
    sets: Sequence[torch.Tensor],
    data: DataSplits,
    cache: Path | None,
) -> Iterator[Row]:
    """Yield what is left after each of `sets` (positions in the training set) is forgotten.

    Each run starts from the network that the one before left.
    """
    all_ = data.train
    for i, own in enumerate(sets):
        past = torch.cat([*sets[:i], own[:0]])
        gone = torch.zeros(len(all_), dtype=torch.bool)
        gone[past] = True
        here = replace(data, train=all_.take(~gone), gone=all_.take(past) if i else None)
        request = ForgetRequest(instances=tuple(sorted(all_.index[own].tolist())))
        started = time.perf_counter()
        try:
            folded, edit = unlearn(model, method, request, here, Journal(cache=cache))
        except (DivergedError, NothingForgottenError) as error:
            say(str(error))
            return
        seconds = time.perf_counter() - started
        assert isinstance(edit, WeightEdit)  # as L2UL returns
        model = edited(folded, edit)
        lefts = [accuracy_on(model, all_.take(part)) for part in sets[: i + 1]]
        gone[own] = True
        yield Row(
            variant,
            len(own),
            forget_acc=sum(lefts) / len(lefts),
            worst_set=max(lefts),
            reached=1 - float(str(edit.found["left"])),
            retain_acc=accuracy_on(model, evenly(all_.take(~gone), _RETAINED)),
            test_acc=accuracy_on(model, data.test),
            steps=int(str(edit.found["steps"])),
            seconds=seconds,
            status=str(edit.found["status"]),
        )


def table(rows: Sequence[Row]) -> Table:
    """Return the rows in percent."""
    shown = Table("variant", "k", "forgotten", "worst set", "reached", "rest", "test", "steps", "s")
    for row in rows:
        values = (row.forget_acc, row.worst_set, row.reached, row.retain_acc, row.test_acc)
        percent = [f"{100 * value:.2f}" for value in values]
        shown.add_row(row.variant, str(row.k), *percent, str(row.steps), f"{row.seconds:.0f}")
    return shown
