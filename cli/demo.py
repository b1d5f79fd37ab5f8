"""`bandstop demo`: the whole flow on real data, from training to answers out of a real Triton."""

import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from bandstop.cli.demo_report import Row, outcome, report, tables
from bandstop.cli.demo_steps import (
    Folders,
    batch_parity,
    forgotten,
    local_row,
    pixels,
    publish_all,
    release_all,
    served_rows,
    trained,
)
from bandstop.cli.output import say
from bandstop.edit.artifact import Artifact
from bandstop.edit.baselines.logit_mask import LogitMask
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.data import load_data
from bandstop.edit.images import DataSplits
from bandstop.edit.request import ForgetRequest
from bandstop.edit.seeds import MAX_SEED
from bandstop.edit.storage import canonical_json, refuse_existing, write_file
from bandstop.edit.svd import SVD
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet
from bandstop.serve.triton import find_server, start

app = typer.Typer(add_completion=False)
RETRAINED = (0, 5)  # classes that a network is trained without, as a reference
WF_STEPS = 150


@app.command(name="demo")
def run(
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Seeds the split, training and methods.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; bandstop-demo, or -2, -3 .. if taken.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print demo.json on stdout.")] = False,
) -> None:
    """Forget handwritten digits in two ways, serve all models with a real Triton, compare.

    Example: bandstop demo --seed 0
    """
    started = time.perf_counter()
    folders = Folders(out or free_name("bandstop-demo"))
    refuse_existing(folders.root)
    # the network is so small that two threads mostly wait for each other
    torch.set_num_threads(1)
    find_server()  # say at once what is missing, not after the training
    folders.make()
    data = load_data("digits", seed=seed)
    with step("train the network"):
        parent = trained(data, seed)
    base = fold_batchnorm(parent)
    baked, gated = forget(folders, parent, data, seed)
    with step("export and check 12 models"):
        releases = release_all(folders, parent, baked, gated)
    with step("publish them"):
        publish_all(folders, releases)
    with step("start Triton, ask it over gRPC"), start(folders.repository) as server:
        parity = batch_parity(server.url, gated, pixels(data.validate), seed)
        rows = list(served_rows(server.url, data.test, base, baked, gated))
    rows += compare(folders, parent, base, data, seed)
    result = outcome(rows, time.perf_counter() - started, seed, parity)
    write_file(folders.root / "demo.json", canonical_json(result))
    write_file(folders.root / "report.html", report(rows, data.class_names, result).encode())
    if as_json:
        typer.echo(canonical_json(result).decode(), nl=False)
    else:
        console = Console(width=None if sys.stdout.isatty() else 100)
        for table in tables(rows, data.class_names):
            console.print(table)
    say(f"{result['seconds']} s in all; report: {folders.root / 'report.html'}")


def forget(
    folders: Folders, parent: Classifier, data: DataSplits, seed: int
) -> tuple[dict[int, Artifact], Artifact]:
    """Return the artifacts of SVD, one a class, and that of WF-Net."""
    baked = {}
    with step("forget each class by SVD"):
        for c in range(parent.num_classes):
            out = folders.artifacts / f"svd-{c}"
            request = ForgetRequest(classes=(c,))
            baked[c] = forgotten(out, parent, data, SVD(seed=seed), request)
    with step("forget all classes at once by WF-Net"):
        method = WFNet(steps=WF_STEPS, seed=seed)
        out = folders.artifacts / "wf-net"
        return baked, forgotten(out, parent, data, method, every_class(parent))


def compare(
    folders: Folders, parent: Classifier, base: Classifier, data: DataSplits, seed: int
) -> list[Row]:
    """Return the rows of the logit mask and of networks retrained without a class."""
    rows = []
    for c in range(base.num_classes):
        request, out = ForgetRequest(classes=(c,)), folders.artifacts / f"logit-mask-{c}"
        masked = forgotten(out, parent, data, LogitMask(), request).model
        rows.append(local_row("logit-mask", c, base, masked, data.test))
    for c in RETRAINED:
        with step(f"train without {data.class_names[c]}, for comparison"):
            other = fold_batchnorm(trained(data, seed, without=c))
            rows.append(local_row("retrained", c, base, other, data.test))
    return rows


def free_name(name: str) -> Path:
    """Return `name`, or the first of `name-2`, `name-3` .. at which nothing exists."""
    names = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
    return next(path for path in map(Path, names) if not path.exists())


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say on stderr what is being done, and how long it took."""
    started = time.perf_counter()
    yield
    say(f"{what}: {time.perf_counter() - started:.1f} s")
