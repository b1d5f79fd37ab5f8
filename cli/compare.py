"""`bandstop compare`: several evaluations in one table and report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bandstop.cli.output import say, show
from bandstop.edit.evaluation.compare import compare
from bandstop.edit.evaluation.compare_page import plain, render_compare, table
from bandstop.edit.evaluation.records import read_metrics
from bandstop.edit.storage import write_file

app = typer.Typer(add_completion=False)


@app.command(name="compare")
def run(
    evaluations: Annotated[
        list[Path],
        typer.Argument(metavar="DIR..", help="Folders that bandstop evaluate wrote."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the report, one HTML file, as well; must not exist.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare evaluations of one request, sorted by their distance to the retrained network.

    Evaluations of one method with several seeds become one line, with mean and 95 % interval.

    Example: bandstop compare evidence-svd evidence-wf-net --out comparison.html
    """
    comparison = compare([(str(path), read_metrics(path)) for path in evaluations])
    if out is not None:
        write_file(out, render_compare(comparison).encode())
        say(f"report: {out}")
    if as_json:
        show(plain(comparison), as_json=True)
    else:
        Console().print(table(comparison))
