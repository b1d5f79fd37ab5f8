"""`bandstop statement`: the unlearning statement of a release, for an auditor."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.output import show
from bandstop.edit.storage import sha256
from bandstop.export.sign_keys import load_private_key
from bandstop.export.statement_make import Evidence, write_statement

app = typer.Typer(add_completion=False)


@app.command(name="statement")
def run(
    release: Annotated[Path, typer.Argument(help="The folder that bandstop export wrote.")],
    artifact: Annotated[Path, typer.Option(help="The artifact that it was exported from.")],
    evidence: Annotated[Path, typer.Option(help="What bandstop evaluate wrote of that artifact.")],
    request_id: Annotated[
        list[str],
        typer.Option(help="An identifier of a request that tells nothing by itself; repeatable."),
    ],
    key: Annotated[Path, typer.Option(help="The private key that signs.")],
    out: Annotated[Path, typer.Option(help="The file to write; must not exist.")],
    gate: Annotated[
        Path | None, typer.Option(help="YAML with the rules of a gate, to tell its result.")
    ] = None,
    previous: Annotated[
        Path | None, typer.Option(help="The statement before this one; none for the first.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a signed in-toto statement of measured unlearning: procedure and effect.

    Example: bandstop statement release --artifact no-three --evidence evidence --request-id r-2041
    --key release.pem --out statement.json
    """
    private = load_private_key(key)
    made_of = Evidence(release, artifact, evidence, request_id, gate, previous)
    issued = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    statement = write_statement(made_of, private, out, issued=issued)
    predicate = statement.predicate
    result = predicate.measured.gate
    show(
        {
            "statement": str(out),
            "digest": sha256(out.read_bytes()),
            "model": predicate.model,
            "requests": predicate.requests,
            "gate_passed": None if result is None else result.passed,
            "previous": predicate.previous,
        },
        as_json=as_json,
    )
