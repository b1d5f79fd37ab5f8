"""Arguments and options that several commands of `bandstop repo` share."""

from pathlib import Path
from typing import Annotated

import typer

Repository = Annotated[Path, typer.Argument(metavar="REPO", help="The model repository.")]
Model = Annotated[str, typer.Argument(help="The model's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Canary = Annotated[
    bool, typer.Option("--canary", help="Serve it beside the version that is served now.")
]
Override = Annotated[
    str | None,
    typer.Option(
        metavar="REASON",
        help="Serve it although it recognises again what the model forgets; the reason is kept.",
    ),
]
