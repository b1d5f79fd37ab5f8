"""Results on stdout, talk on stderr."""

import json
from collections.abc import Mapping

import typer


def show(result: Mapping[str, object], *, as_json: bool) -> None:
    """Print a result on stdout: one JSON object, or a line `key: value` each."""
    if as_json:
        typer.echo(json.dumps(dict(result), allow_nan=False))
        return
    for key, value in result.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        typer.echo(f"{key}: {text}")


def say(text: str) -> None:
    """Print a remark on stderr."""
    typer.echo(text, err=True)
