"""`bandstop predict`: classify image files through a served model."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from bandstop.cli import client_options as options
from bandstop.cli.output import say
from bandstop.cli.predict_ask import Outcome, classify
from bandstop.cli.predict_files import files
from bandstop.cli.predict_print import Csv, Json, Lines, Printer
from bandstop.client import Client

app = typer.Typer(add_completion=False)


@app.command(name="predict")
def run(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files; folders, with all below them; - for a list of them on stdin.",
        ),
    ],
    model: options.Model,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            help="What to forget: a class by name or index, or a named set; again for each "
            "further slot."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Classes to show for each image; 3 if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths on stdin end with NUL, not with a newline.")
    ] = False,
    url: options.Url = options.DEFAULT_URL,
    version: options.Version = "",
    deadline: Annotated[
        float, typer.Option(help="Seconds to wait for the answers to a batch, retries included.")
    ] = 10.0,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Classify images through a served model.

    Example: bandstop predict seven.png --model digits --forget 3
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    given = options.Given(ca, cert, key, server_name, token_file)
    to = options.connection(url, given)
    with Client(
        to.url, model, version=version, deadline=deadline, tls=to.tls, headers=to.headers
    ) as client:
        found = classify(
            client, files(images, b"\0" if null else b"\n"), tuple(forget or ()), top_k
        )
        code = show(found, Json if as_json else Csv if as_csv else Lines)
    if code:
        raise typer.Exit(code)


def show(outcomes: Iterator[Outcome], make: Callable[[], Printer]) -> int:
    """Print `outcomes` as they come; return the exit code: the model's failures before others.

    What was answered is kept, also where the rest fails or is interrupted.
    """
    printer: Printer | None = None
    codes: set[int] = set()
    with progress() as advance:
        try:
            for outcome in outcomes:
                printer = printer or make()
                printer.show(outcome)
                advance(outcome)
                if outcome.error is not None:
                    say(f"error: {outcome.error}")
                codes.add(outcome.exit_code)
            printer = printer or make()
        finally:
            if printer is not None:  # else nothing was answered, and a failure speaks for itself
                printer.end()
    return max(codes, default=0)


@contextmanager
def progress() -> Iterator[Callable[[Outcome], None]]:
    """Yield what is told of each outcome; it is shown on a terminal that the results are not on."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.completed} images, {task.fields[failed]} failed")
    columns = (SpinnerColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, failed = bar.add_task("", total=None, failed=0), 0

        def advance(outcome: Outcome) -> None:
            nonlocal failed
            failed += outcome.error is not None
            bar.update(task, advance=1, failed=failed)

        yield advance
