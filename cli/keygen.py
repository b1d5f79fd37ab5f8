"""`bandstop keygen`: a pair of keys to sign releases and statements with."""

from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.output import show
from bandstop.export.sign_keys import fingerprint, load_public_key, make_keys

app = typer.Typer(add_completion=False)


@app.command(name="keygen")
def run(
    key: Annotated[
        Path, typer.Argument(metavar="KEY", help="The private key's file; KEY.pub gets the public.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make an Ed25519 key pair in PEM files; only their owner can read the private one.

    Example: bandstop keygen release.pem
    """
    public = make_keys(key)
    known = fingerprint(load_public_key(public))
    show({"private": str(key), "public": str(public), "fingerprint": known}, as_json=as_json)
