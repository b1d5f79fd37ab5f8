"""U-LiRA on a small network: what shadow networks tell of unlearning one class, beside controls.

Three rows tell what the number is worth: the original network, which has forgotten nothing (near
1), the logit mask, which hides a class and forgets nothing, and further retrained networks, which
nothing tells from the others (near 0.5).
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bandstop.cli.device import HELP, device_of
from bandstop.cli.output import say
from bandstop.cli.settings import given_settings
from bandstop.cli.train import arch_args
from bandstop.edit.arch import parse_arch
from bandstop.edit.baselines.logit_mask import LogitMask
from bandstop.edit.classifier import Arch
from bandstop.edit.data import load_data
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.oracle import retrained
from bandstop.edit.evaluation.shadows import Seen, Shadow, Trains, seen, shadow_scores
from bandstop.edit.evaluation.ulira import ulira
from bandstop.edit.images import DataSplits
from bandstop.edit.method import Method, split
from bandstop.edit.methods import METHODS, configured, preset
from bandstop.edit.request import ForgetRequest, parse_forget
from bandstop.edit.train import recipe_for

app = typer.Typer(add_completion=False)
SMALL = ("width=16", "blocks=1-1")  # a few seconds a network on digits


@dataclass(frozen=True, slots=True)
class Row:
    """What shadow networks tell of one kind of network.

    Attributes:
        name: original, the method, logit-mask, or retrained: of other seeds than the shadows'.
        ulira_auc: see `ulira`.
        ulira_balanced_acc: see `ulira`.
        forget_acc: accuracy on the training images to forget, mean over the networks.
        test_retain_acc: accuracy on the test images of the other classes, mean over the networks.
    """

    name: str
    ulira_auc: Measure
    ulira_balanced_acc: Measure
    forget_acc: float
    test_retain_acc: float


@app.command(name="ulira")
def run(
    method: Annotated[str, typer.Argument(help=f"One of {', '.join(METHODS)}.")],
    data: Annotated[str, typer.Option(help="See bandstop train.")],
    forget: Annotated[str, typer.Option(help="Classes, forgotten together.")],
    cache: Annotated[Path, typer.Option(help="A folder for the networks, to be used again.")],
    shadows: Annotated[
        int, typer.Option(min=3, help="Pairs of shadow networks; an interval needs 4.")
    ] = 8,
    arch: Annotated[str, typer.Option(help="See bandstop train.")] = "resnet",
    arch_arg: Annotated[
        list[str] | None, typer.Option(help=f"key=value; for resnet {' '.join(SMALL)}.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 16,
    preset_name: Annotated[str, typer.Option("--preset", help="Of the method.")] = "default",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, on top of the preset.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, and of the first pair.")] = 0,
    device: Annotated[str, typer.Option(help=HELP)] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train pairs of shadow networks, unlearn one of each, and tell them from the other.

    Example: python -m bandstop.bench ulira svd --data digits --forget 3 --cache networks
    """
    started = time.perf_counter()
    chosen = configured(preset(method, preset_name), given_settings(None, settings or []))
    splits = load_data(data, seed=seed)
    request = parse_forget(forget, splits.class_names)
    usual = SMALL if arch == "resnet" else ()
    network = parse_arch(arch, arch_args(list(usual if arch_arg is None else arch_arg)))
    recipe = replace(recipe_for(network, splits), epochs=epochs)
    where = device_of(device)
    trained = partial(retrained, cache, network, splits, recipe, device=where, split_seed=seed)
    rows = list(measured(trained, splits, chosen, request, range(seed, seed + shadows)))
    result = {
        "network": describe(network),
        "epochs": epochs,
        "shadows": shadows,
        "forget": ",".join(splits.class_names[c] for c in request.classes),
        "images": len(split(splits, request).forget),
        "seconds": round(time.perf_counter() - started, 1),
    }
    if as_json:
        typer.echo(json.dumps({**result, "rows": [asdict(row) for row in rows]}))
    else:
        Console().print(table(rows, ", ".join(f"{key} {value}" for key, value in result.items())))


def measured(
    trained: Trains, data: DataSplits, method: Method, request: ForgetRequest, seeds: range
) -> Iterator[Row]:
    """Yield the rows of `method` and of its controls.

    Args:
        trained: see `shadow_scores`.
        data: what the networks are trained on.
        method: to be looked at.
        request: what is to be forgotten.
        seeds: of the shadow networks; as many behind them are those of the control.
    """
    pairs = []
    for shadow in shadow_scores(trained, data, method, request, seeds):
        pairs.append(shadow)
        say(told(shadow))
    never = [shadow.retrained for shadow in pairs]
    yield row("original", [shadow.original for shadow in pairs], never)
    if method.name != LogitMask.name:
        masked = shadow_scores(trained, data, LogitMask(), request, seeds)
        yield row(LogitMask.name, [shadow.unlearned for shadow in masked], never)
    yield row(method.name, [shadow.unlearned for shadow in pairs], never)
    further = range(seeds.stop, seeds.stop + len(seeds))
    again = [seen(trained(request, seed), data, request) for seed in further]
    yield row("retrained", again, never)


def row(name: str, networks: Sequence[Seen], never: Sequence[Seen]) -> Row:
    """Return what tells `networks` from those that `never` saw the images."""
    measures = ulira(_scores(networks), _scores(never))
    return Row(
        name,
        measures["ulira_auc"],
        measures["ulira_balanced_acc"],
        sum(one.forget_acc for one in networks) / len(networks),
        sum(one.test_retain_acc for one in networks) / len(networks),
    )


def told(shadow: Shadow) -> str:
    """Return what became of a pair as a line."""
    before, after, never = shadow.original, shadow.unlearned, shadow.retrained
    return (
        f"seed {shadow.seed}: forget {before.forget_acc:.2%} -> {after.forget_acc:.2%}, retain "
        f"{before.test_retain_acc:.2%} -> {after.test_retain_acc:.2%}; retrained "
        f"{never.forget_acc:.2%} and {never.test_retain_acc:.2%}"
    )


def describe(arch: Arch) -> str:
    """Return a network as a word and its arguments."""
    return " ".join([arch.name, *(f"{key}={value}" for key, value in arch.args.items())])


def table(rows: Sequence[Row], caption: str) -> Table:
    """Return the rows as a table."""
    made = Table("against retrained", "U-LiRA AUC", "balanced", "forget", "retain", caption=caption)
    for one in rows:
        measures = (one.ulira_auc, one.ulira_balanced_acc)
        accuracies = (one.forget_acc, one.test_retain_acc)
        made.add_row(one.name, *map(_shown, measures), *(f"{value:.2%}" for value in accuracies))
    return made


def _shown(measure: Measure) -> str:
    if measure.ci95 is None:
        return f"{measure.value:.3f}"
    low, high = measure.ci95
    return f"{measure.value:.3f} ({low:.3f}..{high:.3f})"


def _scores(networks: Sequence[Seen]) -> Tensor:
    return torch.stack([one.scores for one in networks])
