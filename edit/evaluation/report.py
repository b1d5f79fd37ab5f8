"""The report of one evaluation: a page that needs nothing but itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from bandstop.edit.evaluation import plots
from bandstop.edit.evaluation.distance import counted, gap
from bandstop.edit.evaluation.filter_map import maps, matrix
from bandstop.edit.evaluation.page import page
from bandstop.edit.evaluation.record_parts import MetricRecord
from bandstop.edit.evaluation.records import Evaluation
from bandstop.edit.evaluation.verdict import headlines, question, sentences
from bandstop.edit.evaluation.wording import (
    ABOUT,
    HIDES,
    LABELS,
    SUBJECTS,
    chance,
    difference,
    interval,
    shown,
    target,
    things,
)

_OPEN = 3  # layers whose map is shown without a click


@dataclass(frozen=True, slots=True)
class Cell:
    """A measured value; empty where nothing was measured."""

    value: str = ""
    interval: str = ""
    n: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A metric of the table, with one cell a network.

    Attributes:
        key: its name in metrics.json.
        away: how far the edited network is from the retrained one.
    """

    key: str
    title: str
    about: str
    weak: bool
    cells: tuple[Cell, ...]
    away: str
    better: str
    target: str
    chance: str


def render(evaluation: Evaluation) -> str:
    """Return the report as one HTML file; it loads nothing and runs no script."""
    e = evaluation
    names = [name for name in SUBJECTS if name in e.subjects]
    layers = maps(e)
    return page(
        "report.html",
        {
            "title": f"{e.artifact.method}: forget {things(e.artifact.request)}",
            "question": question(e),
            "headlines": headlines(e),
            "sentences": sentences(e),
            "warnings": e.warnings,
            "artifact": e.artifact,
            "settings": _flat(e.artifact.params),
            "subjects": [(name, LABELS[name], ABOUT[name]) for name in names],
            "colours": plots.COLOURS,
            "hides": HIDES,
            "rows": [_row(e, key, metric, names) for key, metric in _measured(e)],
            "counted": [e.metrics[key].title for key in counted([e])],
            "answers": [p for p in (plots.per_class(e), plots.destinations(e)) if p],
            "inside": [p for p in (plots.relearn(e), *plots.cka(e)) if p],
            "masks": [p for p in (*plots.insertion(e), matrix(e)) if p],
            "layers": layers[-_OPEN:],
            "other_layers": layers[:-_OPEN],
            "costs": _costs(e),
            "data": e.data,
            "seed": e.seed,
            "versions": e.versions,
            "command": e.command,
        },
    )


def _measured(e: Evaluation) -> list[tuple[str, MetricRecord]]:
    return [(k, m) for k, m in e.metrics.items() if any(k in s for s in e.subjects.values())]


def _row(e: Evaluation, key: str, metric: MetricRecord, names: list[str]) -> Row:
    away = gap(e, "edited", key)
    return Row(
        key,
        metric.title[:1].upper() + metric.title[1:],
        metric.about,
        metric.weak,
        tuple(_cell(e, name, key, metric.unit) for name in names),
        "" if away is None else difference(away, metric.unit),
        metric.direction,
        target(metric),
        chance(metric),
    )


def _cell(e: Evaluation, subject: str, key: str, unit: str) -> Cell:
    measure = e.subjects.get(subject, {}).get(key)
    if measure is None:
        return Cell()
    sure = interval(measure.ci95, unit)
    return Cell(shown(measure.value, unit), sure, f"n = {measure.n}", measure.note)


def _costs(e: Evaluation) -> list[tuple[str, str]]:
    cost = e.runtime
    times = (
        ("Unlearning", cost.unlearn_seconds),
        ("Retraining instead", cost.retrain_seconds),
        ("This evaluation", cost.evaluate_seconds),
    )
    found = [(name, shown(value, "s")) for name, value in times if value is not None]
    if cost.unlearn_seconds and cost.retrain_seconds:
        found.append(("Times faster", f"{cost.retrain_seconds / cost.unlearn_seconds:.1f}"))
    if cost.peak_memory_mb is not None:
        found.append(("Peak memory", shown(cost.peak_memory_mb, "MB")))
    return found + ([("Device", cost.device)] if cost.device else [])


def _flat(params: Mapping[str, object]) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in params.items()
    ]
