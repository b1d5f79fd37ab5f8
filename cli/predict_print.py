"""How `bandstop predict` shows what it finds, each outcome as soon as it is there."""

import csv
import io
import json
from typing import Protocol

import typer

from bandstop.cli.predict_ask import Outcome

COLUMNS = ("file", "rank", "class", "probability", "version", "error")


class Printer(Protocol):
    """Shows outcomes on stdout."""

    def show(self, outcome: Outcome) -> None:
        """Print one outcome."""
        ...

    def end(self) -> None:
        """Print what has to follow the last one, which may have come too early."""
        ...


class Lines:
    """A line for each class: probability, class, file."""

    def show(self, outcome: Outcome) -> None:
        """Print one outcome; errors are told on stderr alone."""
        if outcome.prediction is not None:
            found = outcome.prediction
            for name, value in zip(found.names, found.probabilities, strict=True):
                typer.echo(f"{value:.4f}  {_shown(name)}  {_shown(outcome.file)}")

    def end(self) -> None:
        """Print nothing."""


class Json:
    """One JSON array with an object for each file; whole at each end, however early."""

    def __init__(self) -> None:
        """Begin with the first outcome."""
        self._begun, self._lead = False, ""

    def show(self, outcome: Outcome) -> None:
        """Print one object."""
        record = json.dumps(as_record(outcome), allow_nan=False)
        if not self._begun:
            self._begun = True
            typer.echo("[", nl=False)
        # what is printed before an interruption is whole, whatever we know of it then
        typer.echo(f"{self._lead}{record}", nl=False)
        self._lead = ", "

    def end(self) -> None:
        """Close the array."""
        typer.echo("]" if self._begun else "[]")


class Csv:
    """Comma-separated values by RFC 4180, a row for each class; a file's error has a row too."""

    def __init__(self) -> None:
        """Print the names of the columns."""
        self._print(COLUMNS)

    def show(self, outcome: Outcome) -> None:
        """Print the rows of one outcome."""
        found = outcome.prediction
        if found is None:
            self._print((outcome.file, "", "", "", "", outcome.error))
            return
        pairs = zip(found.names, found.probabilities, strict=True)
        for rank, (name, value) in enumerate(pairs, 1):
            self._print((outcome.file, rank, name, repr(value), found.version, ""))

    def end(self) -> None:
        """Print nothing."""

    def _print(self, row: tuple[object, ...]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        # a file name may hold bytes that are no text
        typer.echo(line.getvalue().encode(errors="backslashreplace").decode(), nl=False)


def as_record(outcome: Outcome) -> dict[str, object]:
    """Return what --json prints of one file."""
    found = outcome.prediction
    return {
        "file": outcome.file,
        "names": list(found.names) if found else None,
        "probabilities": list(found.probabilities) if found else None,
        "version": found.version if found else None,
        "applied": list(found.applied) if found else None,
        "error": outcome.error,
    }


def _shown(name: str) -> str:
    """Return `name`, quoted where it would break the line or the terminal's encoding."""
    return name if name.isprintable() else repr(name)
