"""The edit stage against the papers' ways: time and memory of SVD unlearning, a step of WF-Net.

Every figure is ours / reference, measured in turns in one run on random weights and smooth images.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from bandstop.bench.memory import Job, peak_growth
from bandstop.bench.pgd_step import pgd_times
from bandstop.bench.svd_reference import Paper
from bandstop.bench.svd_time import all_classes, layer_times, network_ratio
from bandstop.bench.wf_step import wf_step_times
from bandstop.bench.workload import (
    CLASSES,
    resnet18,
    retain_and_forget,
    shapes,
    smooth_images,
)
from bandstop.cli.output import say
from bandstop.edit.images import DataSplits
from bandstop.edit.method import Splits

app = typer.Typer(add_completion=False)
BARS = {
    "svd_time_ratio": 1 / 15,
    "svd_memory_ratio": 1 / 3,
    "svd_all_classes_ratio": 1.6,
    "wf_step_ratio": 0.75,
    "pgd_ratio": 1.1,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the run is; the defaults are the paper's CIFAR-10 setting.

    Attributes:
        width: of the ResNet-18.
        size: of the images.
        retain: images to keep, of nine classes.
        forget: images to forget, of one class.
        row_cap: rows of a layer that the reference reads, at most; ours reads twice as many.
        rounds: of each layer shape below `slow`.
        slow: layers with so many columns have one round.
        slowest: of layers with so many columns the reference decomposes one side, which is counted
            twice; it takes minutes.
        memory_images: images a side in the memory run; the reference's rows reach the cap.
        memory_largest: columns of the layers that the reference decomposes there, at most.
        all_classes_width: of the network whose ten classes are forgotten.
        all_classes_rounds: of that comparison.
        wf_batch: images of a WF-Net step.
        wf_rounds: of the steps.
        pgd_batch: images of an adversarial step.
        pgd_rounds: of the steps.
    """

    width: int = 64
    size: int = 32
    retain: int = 900
    forget: int = 900
    row_cap: int = 10_000
    rounds: int = 2
    slow: int = 1152
    slowest: int = 2304
    memory_images: int = 640
    memory_largest: int = 256
    all_classes_width: int = 32
    all_classes_rounds: int = 1
    wf_batch: int = 32
    wf_rounds: int = 9
    pgd_batch: int = 32
    pgd_rounds: int = 9


QUICK = Scale(
    width=8,
    size=16,
    retain=45,
    forget=45,
    row_cap=500,
    rounds=1,
    slowest=576,
    memory_images=45,
    all_classes_width=4,
    wf_batch=8,
    wf_rounds=3,
    pgd_batch=8,
    pgd_rounds=3,
)
Part = Mapping[str, object]


@app.command()
def main(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quick: Annotated[bool, typer.Option(help="Small networks, seconds; checks the code.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Measure only this part; repeat for more.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and images.")] = 0,
) -> None:
    """Compare the edit stage with the papers' ways; every ratio is ours / reference."""
    parts = {part.__name__: part for part in _PARTS}
    unknown = set(only or ()) - parts.keys()
    if unknown:
        raise typer.BadParameter(
            f"expected {', '.join(parts)}, got {', '.join(unknown)}", param_hint="--only"
        )
    scale = QUICK if quick else Scale()
    started = time.perf_counter()
    result: dict[str, object] = {}
    for name in only or parts:
        say(f"bench edit: {name} ...")
        found = parts[name](scale, seed)
        say(", ".join(f"{k} {v:.4f}" for k, v in found.items() if isinstance(v, float)))
        result |= found
    result |= {
        "scale": asdict(scale),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": time.perf_counter() - started,
    }
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    else:
        _show(result)


def svd_time(scale: Scale, seed: int) -> Part:
    """Return ours / reference of each layer shape and of the network, without the forwards."""
    model = resnet18(scale.width, scale.size, seed)
    sides = retain_and_forget(scale.retain, scale.forget, scale.size, seed)
    paper = Paper(row_cap=scale.row_cap, seed=seed)
    timed = layer_times(shapes(model, *sides), paper, scale.rounds, scale.slow, scale.slowest)
    return {"svd_time_ratio": network_ratio(timed), "svd_layers": [t.as_json() for t in timed]}


def svd_memory(scale: Scale, seed: int) -> Part:
    """Return ours / reference of the peak memory of the whole network's edit."""
    job = Job(
        width=scale.width,
        size=scale.size,
        retain=scale.memory_images,
        forget=scale.memory_images,
        row_cap=scale.row_cap,
        largest=scale.memory_largest,
        seed=seed,
    )
    ours, reference = peak_growth("ours", job), peak_growth("reference", job)
    return {
        "svd_memory_ratio": ours / reference,
        "svd_memory": {"ours_bytes": ours, "reference_bytes": reference, **asdict(job)},
    }


def svd_all_classes(scale: Scale, seed: int) -> Part:
    """Return the time of ten edits from one pass / the time of one, on as many images."""
    model = resnet18(scale.all_classes_width, scale.size, seed)
    retain, forget = retain_and_forget(scale.retain, scale.forget, scale.size, seed)
    count = scale.retain + scale.forget
    labels = torch.arange(count) % CLASSES
    every = smooth_images(labels, scale.size, seed)
    few = smooth_images(torch.arange(2 * CLASSES) % CLASSES, scale.size, seed + 1)
    data = DataSplits(every, few, few, model.class_names, model.preprocess)
    setting = Paper().as_ours(scale.retain, scale.forget)
    compared = all_classes(
        setting, model, Splits(forget, retain, few), data, scale.all_classes_rounds
    )
    return {
        "svd_all_classes_ratio": compared.ratio,
        "svd_all_classes": {
            "width": scale.all_classes_width,
            "images": count,
            **compared.as_json(),
        },
    }


def wf_step(scale: Scale, seed: int) -> Part:
    """Return the time of a WF-Net step / an ordinary training step on as many rows."""
    compared = wf_step_times(scale.width, scale.size, scale.wf_batch, scale.wf_rounds, seed)
    return {"wf_step_ratio": compared.ratio, "wf_step": compared.as_json()}


def pgd(scale: Scale, seed: int) -> Part:
    """Return the time of an adversarial step / a bare gradient of the same batch."""
    given, folded = pgd_times(scale.width, scale.size, scale.pgd_batch, scale.pgd_rounds, seed)
    return {
        "pgd_ratio": given.ratio,
        "pgd": {**given.as_json(), "ratio_to_folded": folded.ratio},
    }


_PARTS = (svd_memory, wf_step, pgd, svd_all_classes, svd_time)


def _show(result: Mapping[str, object]) -> None:
    console = Console()
    ratios = Table("ratio", "ours / reference", "bar", title="bench edit")
    for key in [key for key in BARS if key in result]:
        ratios.add_row(key, f"{result[key]:.4f}", f"{BARS[key]:.4f}")
    console.print(ratios)
    layers = Table(
        "layer",
        "d",
        "count",
        "ours s",
        "reference s",
        "ratio",
        caption="* one side of the reference is measured and counted twice",
    )
    rows = result.get("svd_layers")
    for row in rows if isinstance(rows, list) else []:
        ours, reference, ratio = (f"{row[key]:.3f}" for key in ("ours_s", "reference_s", "ratio"))
        star = "*" if row["reference_side_counted_twice"] else ""
        counts = (str(row["d"]), str(row["count"]))
        layers.add_row(row["layer"], *counts, ours, reference + star, ratio)
    if layers.row_count:
        console.print(layers)
    console.print(
        f"{result['threads']} threads, torch {result['torch']}, {result['seconds']:.0f} s"
    )
