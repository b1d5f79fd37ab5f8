"""`bandstop repo promote` and `bandstop repo rollback`."""

from dataclasses import asdict
from typing import Annotated

import typer

from bandstop.cli.output import show
from bandstop.cli.repo_options import AsJson, Canary, Model, Override, Repository
from bandstop.cli.repo_server import (
    Ca,
    Cert,
    Key,
    ServerName,
    ServerOptions,
    TokenFile,
    Url,
    server_of,
)
from bandstop.export.promote import Change, promote, rollback


def run_promote(
    repo: Repository,
    model: Model,
    version: Annotated[int, typer.Argument(help="A version in the repository.")],
    canary: Canary = False,
    override: Override = None,
    url: Url = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Serve a version alone; with --url the server loads it and has to prove it.

    Example: bandstop repo promote models digits 3
    """
    with server_of(ServerOptions(url, ca, cert, key, server_name, token_file)) as server:
        change = promote(repo, model, version, canary=canary, override=override, server=server)
    _show(change, as_json=as_json)


def run_rollback(
    repo: Repository,
    model: Model,
    version: Annotated[
        int | None, typer.Argument(help="Else the last that was served alone before.")
    ] = None,
    override: Override = None,
    url: Url = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Serve an earlier version; one that lacks what was forgotten since is refused.

    Example: bandstop repo rollback models digits
    """
    with server_of(ServerOptions(url, ca, cert, key, server_name, token_file)) as server:
        change = rollback(repo, model, version, override=override, server=server)
    _show(change, as_json=as_json)


def _show(change: Change, *, as_json: bool) -> None:
    show(asdict(change), as_json=as_json)
