"""The options by which a command reaches a server as a client."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bandstop.client import InvalidInput, Tls
from bandstop.serve.access import HEADER
from bandstop.serve.errors import NotServed
from bandstop.serve.state import Running, running_at

LONGEST_TOKEN = 4096  # bytes

Model = Annotated[str, typer.Option("--model", help="The model as the server names it.")]
Version = Annotated[
    str, typer.Option("--version", help="A version to stay with; the server's choice if not given.")
]
Url = Annotated[str, typer.Option("--url", help="Triton's gRPC port: host:port or unix:/path.")]
UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="Triton's gRPC port: host:port or unix:/path.")
]
DEFAULT_URL = "127.0.0.1:8001"
Ca = Annotated[
    Path | None, typer.Option("--ca", help="Authorities of the server's certificate (PEM).")
]
Cert = Annotated[Path | None, typer.Option("--cert", help="Our certificate for mutual TLS (PEM).")]
Key = Annotated[Path | None, typer.Option("--key", help="The private key of --cert (PEM).")]
ServerName = Annotated[
    str | None,
    typer.Option("--server-name", help="That the server's certificate bears, if not its host."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help=f"File with the secret of the server's restricted protocols, sent as {HEADER}.",
    ),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """How a server is reached.

    Attributes:
        url: of its gRPC port.
        tls: how it is known, where it speaks TLS.
        headers: sent with every call.
    """

    url: str
    tls: Tls | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Given:
    """What was given on the command line beside the url."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    token_file: Path | None = None


def connection(url: str, given: Given, *, with_token: bool = False) -> Connection:
    """Return how `url` is reached; TLS of our own `bandstop serve` is found by its note.

    Args:
        url: of the server.
        given: goes before what is found.
        with_token: whether our own server's token is sent; asking for answers needs none.

    Raises:
        InvalidInput: the file of a token cannot be used.
    """
    about = (given.ca, given.cert, given.key, given.server_name)
    ours = _ours(url)
    tls = Tls(*about) if any(about) else (ours.access.tls if ours else None)
    if given.token_file is not None:
        return Connection(url, tls, {HEADER: token_in(given.token_file)})
    return Connection(url, tls, ours.access.headers if ours and with_token else {})


def token_in(file: Path) -> str:
    """Return the secret in `file`, which is its one line.

    Raises:
        InvalidInput: it cannot be read, or sent; the secret itself is not told.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LONGEST_TOKEN + 1)
    except OSError as error:
        raise InvalidInput(f"--token-file {file}: cannot be read: {error.strerror}") from error
    token = content.decode("ascii", errors="replace").strip()
    if not token or len(content) > LONGEST_TOKEN or not (token.isascii() and token.isprintable()):
        raise InvalidInput(
            f"--token-file {file}: expected one line of printable ASCII, {LONGEST_TOKEN} bytes at "
            "most"
        )
    return token


def _ours(url: str) -> Running | None:
    try:
        return running_at(url)
    except NotServed:  # the folder of the notes is another user's: there is none of ours
        return None
