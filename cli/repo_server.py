"""The options by which `bandstop repo` reaches the server of a repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.client_options import Ca, Cert, Key, ServerName, token_in
from bandstop.client.channel import Tls
from bandstop.client.errors import InvalidInput
from bandstop.export.errors import SpecError
from bandstop.export.readback import TritonServer, server_at
from bandstop.serve.access import HEADER, Access
from bandstop.serve.state import running_at

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="gRPC port of the Triton that serves REPO, host:port or unix:/path: it takes the "
        "change up and has to prove it. Without it only files are changed.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help=f"File with the secret of the server's restricted protocols, sent as {HEADER}. "
        "That of a `bandstop serve` of this user is found without.",
    ),
]

__all__ = ["Ca", "Cert", "Key", "ServerName", "TokenFile", "Url"]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What was given on the command line."""

    url: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    token_file: Path | None = None


@contextmanager
def server_of(options: ServerOptions) -> Iterator[TritonServer | None]:
    """Yield the server that `options` name, or None where they name none.

    Raises:
        SpecError: options without a url, or a token that cannot be sent.
        InvalidInput: no address, or a file of TLS cannot be used.
    """
    access = access_of(options)
    if access is None:
        yield None
        return
    with server_at(access.url, access.tls, tuple(access.headers.items())) as server:
        yield server


def access_of(options: ServerOptions) -> Access | None:
    """Return how the server is reached, completed by the note of our own `bandstop serve`.

    Raises:
        SpecError: as `server_of`.
    """
    about = (options.ca, options.cert, options.key, options.server_name)
    if options.url is None:
        if any(about) or options.token_file:
            raise SpecError("--ca, --cert, --key, --server-name and --token-file need --url")
        return None
    tls = Tls(*about) if any(about) else None
    ours = running_at(options.url)
    if options.token_file is not None:
        token = read_token(options.token_file)
    else:
        token = ours.access.token if ours else ""
    return Access(options.url, token, tls or (ours.access.tls if ours else None))


def read_token(file: Path) -> str:
    """Return the secret in `file`, which is its one line.

    Raises:
        SpecError: it cannot be read, or sent; the secret itself is not told.
    """
    try:
        return token_in(file)
    except InvalidInput as error:
        raise SpecError(str(error)) from error
