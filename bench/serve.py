"""Servers and repositories under load and under faults; each bar has a control that misses it."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)
MISSED = 1  # exit code
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Control = Annotated[
    bool, typer.Option("--control", help="Do it the wrong way, which has to miss the bar.")
]


@app.command()
def swap(as_json: AsJson = False, control: Control = False) -> None:
    """Ten swaps and five rollbacks under load; control: unload, then load."""
    _tell(_measure("serve_swap")(control), as_json)


@app.command()
def crash(as_json: AsJson = False, control: Control = False) -> None:
    """Publishers killed at each system call, full disks, twenty at once; control: a plain copy."""
    _tell(_measure("serve_crash")(control), as_json)


@app.command()
def stale(as_json: AsJson = False, control: Control = False) -> None:
    """What makes Triton say yes and serve the old; control: load without a look at what answers."""
    _tell(_measure("serve_stale")(control), as_json)


@app.command()
def restart(as_json: AsJson = False, control: Control = False) -> None:
    """Server and backend killed under load; control: clients that do not try again."""
    _tell(_measure("serve_restart")(control), as_json)


@app.command()
def soak(
    seconds: Annotated[float, typer.Option(help="Of load.", min=1)] = 60.0,
    as_json: AsJson = False,
    control: Control = False,
) -> None:
    """Load for a minute: failures, memory, leftovers; control: a backend that leaks."""
    _tell(import_module("bandstop.bench.serve_soak").measured(control, seconds), as_json)


def _measure(module: str) -> Callable[[bool], Mapping[str, object]]:
    found: Callable[[bool], Mapping[str, object]] = import_module(
        f"bandstop.bench.{module}"
    ).measured
    return found


def _tell(result: Mapping[str, object], as_json: bool) -> None:
    """Print `result`; its `missed` names the bars that were."""
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
    else:
        for key, value in result.items():
            typer.echo(f"{key}: {value}")
    if result["missed"]:
        raise typer.Exit(MISSED)
