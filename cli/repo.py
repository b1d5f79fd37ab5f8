"""`bandstop repo`: put releases into a model repository, see what is in it."""

from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.output import show
from bandstop.export.record import ReleaseRecord
from bandstop.export.record_files import load_release
from bandstop.export.repository import publish, versions

app = typer.Typer(add_completion=False, help="Releases in a Triton model repository.")

Repository = Annotated[Path, typer.Argument(metavar="REPO", help="The model repository.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(name="publish")
def run_publish(
    release: Annotated[Path, typer.Argument(help="The folder that bandstop export wrote.")],
    repo: Repository,
    model: Annotated[
        str | None, typer.Option(help="The model's name; else the release's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a release as the next version of a model; it becomes the one that is served.

    Example: bandstop repo publish release models --model digits
    """
    name = load_release(release).record.name if model is None else model
    version = publish(release, repo, name)
    show({"model": name, "version": version}, as_json=as_json)


@app.command(name="list")
def run_list(repo: Repository, as_json: AsJson = False) -> None:
    """Show every version of every model; a star marks those that are served."""
    rows = [
        {
            "model": found.model,
            "version": found.version,
            "served": found.served,
            "mode": found.record.mode if found.record else None,
            "forgets": _forgets(found.record),
            "digest": found.record.files["model.onnx"].sha256 if found.record else None,
        }
        for found in versions(repo)
    ]
    if as_json:
        show({"versions": rows}, as_json=True)
        return
    for row in rows:
        mark = "*" if row["served"] else " "
        about = f"{row['mode'] or 'not published by bandstop'}  {row['forgets']}"
        typer.echo(f"{mark} {row['model']}  {row['version']}  {about}".rstrip())


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
