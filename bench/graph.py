"""Exported graphs against the plain export of the original, timed in turns by ONNX Runtime."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer
from rich.console import Console
from rich.table import Table

from bandstop.bench.graph_files import NETWORKS, Files, same_structure
from bandstop.bench.timing import Comparison, interleaved
from bandstop.cli.output import say
from bandstop.edit.errors import InputError
from bandstop.edit.progress import progress

BATCHES, THREADS = (1, 8, 32), (1, 2)
_WARM = 2  # runs of each side that are not counted
# what is timed -> against what; in a Transformer "plain" has the algebra of the gated graph
KINDS: Mapping[str, str] = {
    "gated": "plain",
    "gated_kernel_bias": "plain",
    "gated_tied": "plain",
    "gated_uint16": "plain",
    "gated_k4": "gated",
    "baked": "original",
}

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison; `kind` is of `KINDS`, `network` of `NETWORKS`."""

    kind: str
    network: str
    batch: int
    threads: int

    @property
    def name(self) -> str:
        """The key of the result."""
        return f"{self.kind}_{self.network}_b{self.batch}_t{self.threads}"


CELLS = tuple(
    Cell(kind, network, batch, threads)
    for network, made in NETWORKS.items()
    for kind in KINDS
    if kind != ("gated_tied" if made.tied else "gated_kernel_bias")  # that is `gated`
    for batch in BATCHES
    for threads in THREADS
)


@app.command(name="graph")
def run(
    cells: Annotated[
        str, typer.Option(help="Shell patterns of the keys of the result, with commas between.")
    ] = "*",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time gated and baked graphs of networks at full size with random weights and masks."""
    patterns = cells.split(",")
    chosen = [cell for cell in CELLS if any(fnmatchcase(cell.name, p) for p in patterns)]
    if not chosen:
        raise InputError(f"--cells {cells}: matches none of {CELLS[0].name} ... {CELLS[-1].name}")
    files = Files()
    timed = {}
    for cell in progress(chosen, "graph"):
        timed[cell.name] = compared(cell, files, rounds)
        ratio, cpu = timed[cell.name].ratio, timed[cell.name].cpu_ratio
        say(f"graph: {cell.name} {ratio:.3f}, by processor time {cpu:.3f}")
    if as_json:
        results = {name: comparison.as_json() for name, comparison in timed.items()}
        typer.echo(json.dumps({**results, **about(files)}))
    else:
        Console().print(table(timed))


def compared(cell: Cell, files: Files, rounds: int) -> Comparison:
    """Return what the file of `cell` and that of its reference spend on the same images."""
    ours = _runner(files.of(cell.network, cell.kind), cell)
    reference = _runner(files.of(cell.network, KINDS[cell.kind]), cell)
    for _ in range(_WARM):
        ours()
        reference()
    return interleaved(ours, reference, rounds)


def about(files: Files) -> dict[str, object]:
    """Return sizes, seconds of the exports and whether baked files are built as the originals."""
    return {
        "table_bytes": {
            f"{kind}_{name}": files.table_bytes(name, kind) for name, kind in files.gated
        },
        "file_bytes": {f"{kind}_{name}": len(file) for (name, kind), file in files.made.items()},
        "export_seconds": {f"{kind}_{name}": s for (name, kind), s in files.seconds.items()},
        "baked_identical": {
            name: same_structure(file, files.of(name, "original"))
            for (name, kind), file in list(files.made.items())
            if kind == "baked"
        },
    }


def table(timed: Mapping[str, Comparison]) -> Table:
    """Return the ratios as a table."""
    made = Table("graph", "ratio", "by processor time", "ms", "reference ms")
    for name, comparison in timed.items():
        made.add_row(
            name,
            f"{comparison.ratio:.3f}",
            f"{comparison.cpu_ratio:.3f}",
            f"{comparison.ours_s * 1e3:.1f}",
            f"{comparison.reference_s * 1e3:.1f}",
        )
    return made


def _runner(file: bytes, cell: Cell) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = cell.threads
    # a thread that waits would spend processor time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    size = NETWORKS[cell.network].size
    images = np.random.default_rng(0).random((cell.batch, 3, size, size), dtype=np.float32)
    feeds: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {"image": images}
    asked = {i.name: i.shape for i in session.get_inputs()}.get("forget_class")
    if asked is not None:
        rows = np.arange(cell.batch * asked[1]) % NETWORKS[cell.network].classes
        feeds["forget_class"] = rows.reshape(cell.batch, asked[1])
    return partial(session.run, None, feeds)
