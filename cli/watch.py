"""`bandstop watch`: what a running server does, live."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from bandstop.cli import client_options as options
from bandstop.cli.watch_look import Look, Watched
from bandstop.cli.watch_rates import Row, record, rows
from bandstop.cli.watch_table import view
from bandstop.client import ClientError, InvalidInput

app = typer.Typer(add_completion=False)
CALL_S = 3.0  # for one call to the server
Show = Callable[[list[Row], str | None], None]


@app.command(name="watch")
def run(
    url: options.UrlArgument,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="The server's metrics port, host:port: tells what waits, and what was forgotten."
        ),
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="End after one interval.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line for each look.")
    ] = False,
    ca: options.Ca = None,
    cert: options.Cert = None,
    key: options.Key = None,
    server_name: options.ServerName = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show what a running server does: versions, rates, latency, queues, failures.

    Example: bandstop watch 127.0.0.1:8001 --metrics 127.0.0.1:8002
    """
    if not 0.05 <= interval <= 86400:
        raise InvalidInput(f"--interval: expected 0.05 to 86400 seconds, got {interval:g}")
    given = options.Given(ca, cert, key, server_name, token_file)
    to = options.connection(url, given, with_token=True)
    with Watched(to, metrics, CALL_S) as server, shown(url, as_json=as_json) as show:
        first = server.look()  # a server that was never there is told at once
        try:
            watch(server, first, show, interval, once=once)
        except KeyboardInterrupt:
            if once:
                raise  # nothing was shown; else this is how one ends it


def watch(server: Watched, first: Look, show: Show, interval: float, *, once: bool) -> None:
    """Show what happens between each two looks, until it is interrupted.

    Raises:
        ClientError: the server does not answer, with `once`; else that is shown, and it goes on.
    """
    before, found = first, rows(first, None)
    if not once:
        show(found, None)
    while True:
        time.sleep(interval)
        error: str | None = None
        try:
            now = server.look()
        except ClientError as failure:
            if once:
                raise
            found, error = [], " ".join(str(failure).split())
        else:
            found, before = rows(now, before), now
        show(found, error)
        if once:
            return


@contextmanager
def shown(url: str, *, as_json: bool) -> Iterator[Show]:
    """Yield what shows a look: a table that is renewed, or one after the other, or JSON."""
    if as_json:
        yield lambda found, error: typer.echo(_line(url, found, error))
        return
    if not sys.stdout.isatty():
        console = Console(width=160)
        yield lambda found, error: console.print(view(url, found, error))
        return
    with Live(auto_refresh=False, console=Console()) as live:
        yield lambda found, error: live.update(view(url, found, error), refresh=True)


def _line(url: str, found: list[Row], error: str | None) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    look = {"time": at, "url": url, "error": error, "models": [record(row) for row in found]}
    return json.dumps(look, allow_nan=False)
