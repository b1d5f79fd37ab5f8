"""`bandstop predict`: classify image files through a served model."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from bandstop.client import Client, InvalidImage, Prediction

app = typer.Typer(add_completion=False)
BAD_IMAGE = 2  # exit code
PORTION = 32  # files a call, so that a long list is neither held in memory nor under one deadline


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file: a prediction, or the reason why there is none."""

    file: str
    prediction: Prediction | None
    error: str | None


@app.command(name="predict")
def run(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    model: Annotated[str, typer.Option(help="The model as the server names it.")],
    forget: Annotated[
        list[str] | None,
        typer.Option(help="The class to forget, by name or index; again for each further slot."),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Triton's gRPC port: host:port or unix:/path.")
    ] = "127.0.0.1:8001",
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Classes to show for each image; 3 if not given.")
    ] = None,
    deadline: Annotated[
        float, typer.Option(help=f"Seconds to wait for the answers to {PORTION} images.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Classify images through a served model.

    Example: bandstop predict seven.png --model digits --forget 3
    """
    outcomes = []
    with Client(url, model, deadline=deadline) as client:
        for outcome in classify(client, images, tuple(forget or ()), top_k):
            outcomes.append(outcome)
            if outcome.error is not None:
                typer.echo(f"error: {outcome.error}", err=True)
            elif not as_json:
                typer.echo(as_lines(outcome))
    if as_json:
        typer.echo(json.dumps([as_record(outcome) for outcome in outcomes], allow_nan=False))
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(BAD_IMAGE)


def classify(
    client: Client, files: Sequence[str], forget: tuple[str, ...], top_k: int | None
) -> Iterator[Outcome]:
    """Yield the outcome of each file, in order; an unusable file does not stop the others."""
    asked = forget if len(forget) > 1 else (*forget, None)[0]
    keep = min(3, len(client.classes)) if top_k is None else top_k
    for start in range(0, len(files), PORTION):
        portion = files[start : start + PORTION]
        reasons: dict[int, str] = {}
        try:
            found = client.classify(portion, asked, keep)
        except InvalidImage as error:
            reasons = error.reasons
            usable = [file for i, file in enumerate(portion) if i not in reasons]
            found = client.classify(usable, asked, keep) if usable else []
        predictions = iter(found)
        for position, file in enumerate(portion):
            reason = reasons.get(position)
            yield Outcome(file, None if reason else next(predictions), reason)


def as_lines(outcome: Outcome) -> str:
    """Return a line for each class of a prediction: probability, class, file."""
    assert outcome.prediction is not None
    pairs = zip(outcome.prediction.names, outcome.prediction.probabilities, strict=True)
    return "\n".join(f"{p:.4f}  {_shown(name)}  {_shown(outcome.file)}" for name, p in pairs)


def as_record(outcome: Outcome) -> dict[str, object]:
    """Return what --json prints of one file."""
    found = outcome.prediction
    return {
        "file": outcome.file,
        "names": list(found.names) if found else [],
        "probabilities": list(found.probabilities) if found else [],
        "error": outcome.error,
    }


def _shown(name: str) -> str:
    """Return `name`, quoted where it would break the line or the terminal's encoding."""
    return name if name.isprintable() else repr(name)
