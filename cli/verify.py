"""`bandstop verify`: whether something is whole, allowed, and signed by whom one trusts."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bandstop.cli.output import say, show
from bandstop.export.sign_keys import load_public_key
from bandstop.export.verify import Wanted, verify
from bandstop.export.verify_checks import Report
from bandstop.export.verify_signature import Trust

app = typer.Typer(add_completion=False)


@app.command(name="verify")
def run(
    path: Annotated[
        Path,
        typer.Argument(help="An artifact, a release, MODEL/VERSION in a repository, a statement."),
    ],
    key: Annotated[
        Path | None, typer.Option(help="The public key that it must be signed with.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The name under which a release must be signed.")
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option(help="The newest release known, or its signature.json; refuse older ones."),
    ] = None,
    previous: Annotated[
        list[Path] | None, typer.Option(help="A statement before this one; repeatable.")
    ] = None,
    trust_factory: Annotated[
        bool, typer.Option("--trust-factory", help="Allow the artifact to import your own module.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check every file, the graph, the configuration and the signature; exit with 5 on a misfit.

    With 7 where all is good but the release is older than the newest known, or revoked by it.

    Example: bandstop verify models/digits/3 --key release.pem.pub --after last-seen.json
    """
    trust = Trust(None if key is None else load_public_key(key), model, after)
    report = verify(path, Wanted(trust, previous or (), trust_factory=trust_factory))
    if as_json:
        show(_record(report), as_json=True)
    else:
        _print(report)
    for check, misfit in report.misfits:
        say("error: " + " ".join(f"{check}: {misfit}".split()))
    raise typer.Exit(report.exit_code)


def _record(report: Report) -> dict[str, object]:
    checks = [
        {"name": c.name, "outcome": c.outcome, "note": c.note, "misfits": list(c.misfits)}
        for c in report.checks
    ]
    passed = not any(check.misfits for check in report.checks)
    return {"path": str(report.path), "kind": report.kind, "passed": passed, "checks": checks}


def _print(report: Report) -> None:
    table = Table.grid(padding=(0, 2))
    for check in report.checks:
        count = len(check.misfits)
        said = f"{count} misfit{'s' * (count > 1)}" if count else check.note
        table.add_row(Text(check.name), Text(check.outcome), Text(said))
    Console().print(table)
