"""`bandstop gate`: hold an evaluation against thresholds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.output import say, show
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.catalogue import METRICS
from bandstop.edit.evaluation.gate import GateMissed, Verdict, judge, passed
from bandstop.edit.evaluation.gate_rules import default_gate, read_gate
from bandstop.edit.evaluation.junit import junit
from bandstop.edit.evaluation.records import read_metrics
from bandstop.edit.storage import replace_file

app = typer.Typer(add_completion=False)


@app.command(name="gate")
def run(
    metrics: Annotated[
        Path,
        typer.Argument(
            metavar="METRICS", help="The metrics.json that bandstop evaluate wrote, or its folder."
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config", help="YAML with the rules; else the ones that come with it."
        ),
    ] = None,
    subject: Annotated[
        str,
        typer.Option(help="The network that is judged: edited, logit-mask, original or retrained."),
    ] = "edited",
    junit_file: Annotated[
        Path | None, typer.Option("--junit", help="Write JUnit XML to this file as well.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare what was measured with thresholds; exit with 3 when one is missed.

    Example: bandstop gate evaluation/metrics.json -c gate.yaml --junit gate.xml
    """
    evaluation = read_metrics(metrics)
    known = METRICS.keys() | evaluation.metrics.keys()
    gate = default_gate(known) if config is None else read_gate(config, known)
    readings = {str(name): measured for name, measured in evaluation.subjects.items()}
    verdicts = judge(gate, readings, subject)
    if junit_file is not None:
        _write(junit_file, junit(verdicts, subject))
    if as_json:
        rules = [_record(verdict) for verdict in verdicts]
        show({"subject": subject, "passed": passed(verdicts), "rules": rules}, as_json=True)
    else:
        typer.echo(_table(verdicts))
    _refuse_missed(verdicts, subject)


def _write(file: Path, content: bytes) -> None:
    if file.is_dir() or not file.resolve().parent.is_dir():
        raise InputError(f"--junit {file}: expected a file in a folder that exists")
    replace_file(file, content)


def _record(verdict: Verdict) -> dict[str, object]:
    return {
        "name": verdict.rule.name,
        **verdict.rule.model_dump(exclude_none=True),
        "outcome": verdict.outcome,
        "value": verdict.value,
        "reference": verdict.reference,
        "line": verdict.line,
    }


def _table(verdicts: Sequence[Verdict]) -> str:
    """Return a line a rule: outcome, metric, what was measured, what is allowed, by how much."""
    rows = [
        (v.outcome, v.rule.metric, v.measured, v.allowed, "" if v.outcome == "passed" else v.result)
        for v in verdicts
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _refuse_missed(verdicts: Sequence[Verdict], subject: str) -> None:
    missed = [verdict for verdict in verdicts if verdict.outcome == "missed"]
    for verdict in missed:
        say(verdict.line)
    if missed:
        raise GateMissed(f"gate missed: {subject} misses {len(missed)} of {len(verdicts)} rules")
    if not passed(verdicts):
        raise GateMissed(f"gate missed: no rule could be judged of {subject}, all were skipped")
