"""What a client costs and what a release's form gains; every figure is a ratio of two, in turns."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.output import say

app = typer.Typer(add_completion=False)
MISSED = 1  # exit code
REQUESTS = 96  # of a side in a round

BARS: Mapping[str, tuple[str, float]] = {
    "sync_cpu_ratio": ("at most", 1.10),
    "async_cpu_ratio": ("at most", 1.15),
    "uint8_throughput_ratio": ("at least", 1.5),
    "mixed_memory_ratio": ("at most", 0.25),
    "mixed_throughput_ratio": ("at least", 0.85),
    "mixed_load_ratio": ("at most", 0.2),
}


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="One part: cpu, uint8 or mixed; may be repeated.")
    ] = None,
) -> None:
    """Processor time against tritonclient, uint8 against float32, one gated against ten baked."""
    if context.invoked_subcommand:
        return
    parts: Mapping[str, Callable[[], Mapping[str, object]]] = {
        "cpu": cpu,
        "uint8": lambda: import_module("bandstop.bench.client_uint8").measured(),
        "mixed": lambda: import_module("bandstop.bench.client_mixed").measured(),
    }
    if unknown := set(only or ()) - set(parts):
        raise typer.BadParameter(f"--only: expected {', '.join(parts)}, got {sorted(unknown)[0]}")
    result: dict[str, object] = {}
    for name in only or parts:
        result |= parts[name]()
    _tell(result | {"missed": missed(result)}, as_json)


@app.command()
def soak(
    seconds: Annotated[float, typer.Option(help="Of load.", min=5)] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    control: Annotated[
        str, typer.Option(help="leak, unload or wrong: what has to miss a bar.")
    ] = "",
) -> None:
    """Clients under load as versions are swapped: failed, wrong, memory, descriptors, threads."""
    from bandstop.bench import client_soak

    if control and control not in client_soak.CONTROLS:
        expected = ", ".join(client_soak.CONTROLS)
        raise typer.BadParameter(f"--control: expected {expected}, got {control}")
    _tell(client_soak.measured(seconds, control), as_json)


def _tell(result: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    else:
        for key, value in result.items():
            typer.echo(f"{key}: {value}")
    if result["missed"]:
        raise typer.Exit(MISSED)


def missed(result: Mapping[str, object]) -> list[str]:
    """Return the bars that the figures of `result` miss; what was not measured misses none."""
    found = []
    for key, (side, bar) in BARS.items():
        value = result.get(key)
        if not isinstance(value, int | float):
            continue
        # written so that a NaN misses
        if not (value <= bar if side == "at most" else value >= bar):
            found.append(key)
    return found


def cpu() -> dict[str, object]:
    """Return processor time of a request by ours / by tritonclient, blocking and asyncio."""
    from bandstop.bench.client_releases import Network, artifact_of, publish_all
    from bandstop.edit.classifier import Arch
    from bandstop.export.record import ServingRecord
    from bandstop.export.spec import ExportSpec
    from bandstop.serve.triton import start

    # The server's work is not counted; a small network is waited for less.
    small = Network(Arch("bandstop:resnet", {"width": 8, "blocks": "1-1-1"}), 32)
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        say("bench client: exports a small network for 32x32")
        folder = Path(place)
        artifact = artifact_of(small, folder / "artifact")
        serving = ServingRecord(queue_timeout_us=0)
        repo = publish_all(artifact, [("small", ExportSpec("gated"))], folder, serving)
        with start(repo) as server:
            say("bench client: processor time of ours and of tritonclient")
            child = ["-m", "bandstop.bench.client_cpu", server.url, "small", str(REQUESTS)]
            done = subprocess.run(
                [sys.executable, *child], stdout=subprocess.PIPE, text=True, check=True
            )
    found = json.loads(done.stdout)
    ratios = {f"{name}_cpu_ratio": round(one["cpu_ratio"], 3) for name, one in found.items()}
    return ratios | {"cpu": found}
