"""`bandstop sign`: sign a release."""

from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.output import show
from bandstop.export.errors import SpecError
from bandstop.export.record import RECORD
from bandstop.export.sign import Succession, sign_release
from bandstop.export.sign_keys import fingerprint, load_private_key
from bandstop.export.verify import verify

app = typer.Typer(add_completion=False)


@app.command(name="sign")
def run(
    release: Annotated[Path, typer.Argument(help="The folder that bandstop export wrote.")],
    key: Annotated[Path, typer.Option(help="The private key, as bandstop keygen writes it.")],
    model: Annotated[
        str | None,
        typer.Option(help="The name under which it will be published; else the release's own."),
    ] = None,
    sequence: Annotated[
        int | None, typer.Option(help="Grows with every release; else the parent's and one more.")
    ] = None,
    parent: Annotated[
        Path | None, typer.Option(help="The release, or its version, that this one replaces.")
    ] = None,
    revoke: Annotated[
        list[str] | None,
        typer.Option(help="Digest of a release or model.onnx not to be served again; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Verify a release and write signature.json into it; publishing carries it along.

    Example: bandstop sign release --key release.pem --model digits --parent release-before
    """
    private = load_private_key(key)
    if parent is not None and not (parent / RECORD).is_file():
        raise SpecError(f"--parent {parent}: expected a release, or a version, with a {RECORD}")
    verify(release).refuse_misfits()
    succession = Succession(sequence, parent, revoke or ())
    signed = sign_release(release, private, model=model, succession=succession)
    show(
        {
            "release": str(release),
            "model": signed.model,
            "sequence": signed.sequence,
            "digest": signed.release_sha256,
            "parent": signed.parent,
            "revoked": signed.revoked,
            "key": fingerprint(private.public_key()),
        },
        as_json=as_json,
    )
