"""`bandstop repo`: put releases into a model repository, choose and see what is served."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bandstop.cli.output import show
from bandstop.cli.repo_care import run_diff, run_doctor, run_gc
from bandstop.cli.repo_change import run_promote, run_rollback
from bandstop.cli.repo_options import AsJson, Canary, Override, Repository
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
from bandstop.export.errors import SpecError
from bandstop.export.record import ReleaseRecord
from bandstop.export.record_files import load_release
from bandstop.export.repository import publish, versions

TOP_K = 5  # classes that an ensemble names unless told otherwise

app = typer.Typer(add_completion=False, help="Releases in a Triton model repository.")


@app.command(name="publish")
def run_publish(
    release: Annotated[Path, typer.Argument(help="The folder that bandstop export wrote.")],
    repo: Repository,
    model: Annotated[
        str | None, typer.Option(help="The model's name; else the release's own.")
    ] = None,
    canary: Canary = False,
    no_serve: Annotated[
        bool, typer.Option("--no-serve", help="Put it there; promote it later.")
    ] = False,
    override: Override = None,
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble", help="Also publish MODEL_images: takes JPEG, PNG, WebP; answers in names."
        ),
    ] = False,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Classes that the ensemble names; else 5, or all.")
    ] = None,
    url: Url = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    server_name: ServerName = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a release as the next version of a model; it becomes the one that is served.

    Example: bandstop repo publish release models --model digits

    Example: bandstop repo publish release models --url unix:/run/triton/grpc:8001 --canary

    Example: bandstop repo publish release models --ensemble --top-k 3
    """
    if no_serve and url is not None:
        raise SpecError("--no-serve: the server has nothing to take up; leave out --url")
    if top_k is not None and not ensemble:
        raise SpecError("--top-k: belongs to --ensemble")
    record = load_release(release).record
    name = record.name if model is None else model
    named = top_k or min(TOP_K, len(record.class_names))
    with server_of(ServerOptions(url, ca, cert, key, server_name, token_file)) as server:
        version = publish(
            release,
            repo,
            name,
            serve=not no_serve,
            canary=canary,
            override=override,
            top_k=named if ensemble else None,
            server=server,
        )
    show({"model": name, "version": version}, as_json=as_json)


@app.command(name="list")
def run_list(repo: Repository, as_json: AsJson = False) -> None:
    """Show every version of every model; a star marks those that are served."""
    rows = [
        {
            "model": found.model,
            "version": found.version,
            "served": found.served,
            "mode": found.record.mode if found.record else found.part_of and "ensemble",
            "forgets": _forgets(found.record),
            "digest": found.record.files["model.onnx"].sha256 if found.record else None,
            "weights": found.weights,
        }
        for found in versions(repo)
    ]
    if as_json:
        show({"versions": rows}, as_json=True)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "model", "version", "mode", "forgets", "digest"):
        table.add_column(column, no_wrap=column in ("model", "version"))
    for row in rows:
        told = [row["model"], row["version"], row["mode"] or "not published by bandstop"]
        digest = str(row["digest"] or "")[:12] if row["weights"] else "weights removed"
        cells = ("*" if row["served"] else " ", *told, row["forgets"], digest)
        table.add_row(*(Text(str(cell)) for cell in cells))
    Console().print(table)


app.command(name="promote")(run_promote)
app.command(name="rollback")(run_rollback)
app.command(name="diff")(run_diff)
app.command(name="gc")(run_gc)
app.command(name="doctor")(run_doctor)


def _forgets(record: ReleaseRecord | None) -> str:
    if record is None:
        return ""
    classes = (*record.forget.classes, *record.forget.always)
    told = [record.class_names[c] or f"#{c}" for c in classes]
    if record.forget.instances:
        told.append(f"{record.forget.instances} training images")
    if record.forget.slots:
        told.append("what each request names")
    return ", ".join(told)
