"""`bandstop serve`: a real Triton on a model repository, in the foreground."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from bandstop.cli.output import say, show
from bandstop.cli.serve_status import show_status, show_stopped
from bandstop.serve.command import find_server
from bandstop.serve.errors import NotServed, ServeInputError
from bandstop.serve.hazards import hazards
from bandstop.serve.install import install
from bandstop.serve.log import LogFormat
from bandstop.serve.repository import check_repository
from bandstop.serve.state import remembered
from bandstop.serve.tls import ServerTls
from bandstop.serve.triton import Triton, start

app = typer.Typer(add_completion=False)
BANNER = (
    "this bundled Triton {version} is for development and trusted hosts; in production serve the "
    "same repository with NVIDIA's Triton container 26.05 or newer"
)
SECRET_SEEN = (
    "on a port, users of this machine can infer, and can read the token that lets them load models "
    "from the process list; without --port only this user reaches the server"
)
_TLS = "TLS of the gRPC port"


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
    log_format: Annotated[
        str, typer.Option(help="text as Triton writes it, or json: one object a line.")
    ] = "text",
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus metrics on this port of 127.0.0.1; off.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The server's certificate (PEM).", rich_help_panel=_TLS)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key (PEM, mode 600).", rich_help_panel=_TLS)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Answer clients alone whose certificate is signed by this.", rich_help_panel=_TLS
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            help="What our own checks hold the server to; the certificate itself.",
            rich_help_panel=_TLS,
        ),
    ] = None,
    tls_name: Annotated[
        str | None,
        typer.Option(
            help="Name in the certificate; its first one, else localhost.", rich_help_panel=_TLS
        ),
    ] = None,
    probe_cert: Annotated[
        Path | None,
        typer.Option(help="What our own checks show, with --tls-client-ca.", rich_help_panel=_TLS),
    ] = None,
    probe_key: Annotated[
        Path | None, typer.Option(help="Its private key.", rich_help_panel=_TLS)
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until all models must answer.")] = 60.0,
    watch: Annotated[
        bool, typer.Option(help="Repair a model that fails, restart a server that is gone.")
    ] = True,
    prepare: Annotated[
        bool, typer.Option("--install", help="Prepare the bundled Triton once, and stop.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Tell what serves REPO, and how it is.")
    ] = False,
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
        (show_stopped if end else show_status)(repository, as_json=as_json)
        return
    check_repository(repository)
    tls = _tls(tls_cert, tls_key, (tls_client_ca, tls_ca, probe_cert, probe_key), tls_name)
    for hazard in hazards(repository):
        if not hazard.stops:
            say(f"warning: {hazard}")
    try:
        with (
            _ended_by_signals(),
            start(
                repository,
                port=port,
                socket_dir=socket_dir,
                log=log,
                timeout=timeout,
                log_format=_format(log_format),
                metrics_port=metrics_port,
                tls=tls,
            ) as triton,
        ):
            _serve(repository, triton, watch=watch, on_port=port is not None, as_json=as_json)
    except KeyboardInterrupt:
        say("stopped")
        return


def _serve(repository: Path, triton: Triton, *, watch: bool, on_port: bool, as_json: bool) -> None:
    """Tell what is served, and look after it until it ends.

    Raises:
        NotServed: it ended by itself, and could not be brought back.
    """
    if find_server().bundled:
        say(BANNER.format(version=triton.version))
    if on_port:
        say(SECRET_SEEN)
    with remembered(repository, triton) as note:

        def tell(message: str) -> None:
            say(message)
            note()

        if watch:
            triton.watch(tell)
        show(
            {"url": triton.url, "version": triton.version, "models": triton.models}, as_json=as_json
        )
        why = triton.wait()
    raise NotServed(why or "the server ended by itself; see its log (--log FILE)")


def _tls(
    certificate: Path | None,
    key: Path | None,
    others: tuple[Path | None, Path | None, Path | None, Path | None],
    name: str | None,
) -> ServerTls | None:
    if certificate is None or key is None:
        if certificate or key or any(others) or name:
            raise ServeInputError("TLS needs both --tls-cert and --tls-key")
        return None
    client_ca, ca, probe_certificate, probe_key = others
    return ServerTls(certificate, key, client_ca, ca, name, probe_certificate, probe_key)


def _format(name: str) -> LogFormat:
    if name == "text":
        return "text"
    if name == "json":
        return "json"
    raise ServeInputError(f"--log-format {name}: expected text or json")


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
