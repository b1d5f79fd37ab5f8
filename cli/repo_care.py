"""`bandstop repo diff`, `gc` and `doctor`."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bandstop.cli.output import say, show
from bandstop.cli.repo_options import AsJson, Model, Repository
from bandstop.export.diff import diff
from bandstop.export.errors import VerifyFailed
from bandstop.export.gc import gc
from bandstop.serve.hazards import hazards

Version = Annotated[int, typer.Argument(help="A version in the repository.")]


def run_diff(
    repo: Repository, model: Model, a: Version, b: Version, as_json: AsJson = False
) -> None:
    """Show what differs between two versions of a model, by their release.json.

    Example: bandstop repo diff models digits 1 2
    """
    found = diff(repo, model, a, b)
    if as_json:
        fields = {name: {str(a): one, str(b): other} for name, (one, other) in found.items()}
        show({"model": model, "differs": fields}, as_json=True)
        return
    _print(("field", str(a), str(b)), [(name, *values) for name, values in found.items()])


def run_gc(
    repo: Repository,
    model: Annotated[str | None, typer.Argument(help="The model's name; else all.")] = None,
    keep: Annotated[int, typer.Option(min=0, help="Versions to keep for a rollback.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be removed, remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the weights of versions that are superseded; their records stay.

    Example: bandstop repo gc models digits --keep 2
    """
    removed = gc(repo, model, keep=keep, dry_run=dry_run)
    if as_json:
        show({"removed": [asdict(one) for one in removed], "dry_run": dry_run}, as_json=True)
        return
    _print(("model", "version", "bytes"), [(one.model, one.version, one.size) for one in removed])
    total = sum(one.size for one in removed)
    say(f"{total} bytes {'would be' if dry_run else 'were'} removed")


def run_doctor(repo: Repository, as_json: AsJson = False) -> None:
    """Undo what an interrupted change left, and tell every hazard with its mend.

    Ends with exit code 5 where there is one.

    Example: bandstop repo doctor models
    """
    # it looks into graphs, which takes PyTorch and ONNX; the other commands start without
    from bandstop.export.doctor import doctor

    found = doctor(repo)
    findings = [asdict(finding) for finding in found.findings]
    for hazard in hazards(repo):
        where = hazard.where.rstrip("/:")
        findings.append({"where": where, "what": hazard.what, "mend": hazard.mend})
    if as_json:
        show({"swept": found.swept, "findings": findings}, as_json=True)
    else:
        for name in found.swept:
            say(f"undone and removed: {name}")
        if findings:
            columns = ("where", "what", "mend")
            _print(columns, [tuple(f[column] for column in columns) for f in findings])
    if findings:
        raise VerifyFailed(f"repository {repo}: hazards found: {len(findings)}")
    say("no hazard found")


def _print(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)
