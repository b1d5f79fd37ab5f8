"""`bandstop serve`: a real Triton on a model repository, in the foreground."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from bandstop.cli.output import say, show
from bandstop.serve.errors import NotServed, ServeInputError
from bandstop.serve.install import install
from bandstop.serve.state import remembered, running, stop
from bandstop.serve.triton import start

app = typer.Typer(add_completion=False)
BANNER = (
    "this server is for development and trusted hosts; in production serve the same repository "
    "with NVIDIA's Triton container 26.05 or newer"
)


@app.command(name="serve")
def run(
    repository: Annotated[
        Path | None, typer.Argument(help="The model repository; not for --install.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="gRPC port on 127.0.0.1; a unix socket if not given.")
    ] = None,
    socket_dir: Annotated[
        Path | None, typer.Option("--socket", help="Folder for the unix socket; a private one.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Append the server's log to this file.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until all models must answer.")] = 60.0,
    prepare: Annotated[
        bool, typer.Option("--install", help="Prepare the bundled Triton once, and stop.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Tell what serves REPO.")] = False,
    end: Annotated[bool, typer.Option("--stop", help="Stop what serves REPO.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Serve a model repository until interrupted.

    Example: bandstop serve repo --port 8001
    """
    if prepare:
        show({"triton": str(install(say).folder)}, as_json=as_json)
        return
    if repository is None:
        raise ServeInputError("name the repository to serve, or say --install")
    if status or end:
        server = stop(repository) if end else running(repository)
        show({"url": server.url, "pid": server.pid, "stopped": end}, as_json=as_json)
        return
    say(BANNER)
    try:
        with (
            _ended_by_signals(),
            start(repository, port=port, socket_dir=socket_dir, log=log, timeout=timeout) as triton,
            remembered(repository, triton),
        ):
            show(
                {"url": triton.url, "version": triton.version, "models": triton.models},
                as_json=as_json,
            )
            triton.wait()
    except KeyboardInterrupt:
        say("stopped")
        return
    raise NotServed("the server ended by itself; see its log (--log FILE)")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Take Ctrl-C and the signal of a service manager alike, while the block runs."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # a shell makes its background commands ignore SIGINT; a server has to end by it all the same
    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
