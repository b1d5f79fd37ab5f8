"""A comparison to look at: a page that needs nothing but itself, and a table for the terminal."""

from dataclasses import asdict

from rich.table import Table

from bandstop.edit.evaluation.axes import ranges
from bandstop.edit.evaluation.compare import Comparison, Line
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.page import page
from bandstop.edit.evaluation.plots import COLOURS, Plot
from bandstop.edit.evaluation.wording import (
    CLAIM,
    chance,
    interval,
    shown,
    target,
    things,
)

_UNBROKEN = "\N{NO-BREAK SPACE}"
_HEADLINES = ("test_retain_acc", "probe_acc", "prototype_acc", "cka_original", "relearn_epochs")


def render_compare(comparison: Comparison) -> str:
    """Return the comparison as one HTML file; it loads nothing and runs no script."""
    c = comparison
    return page(
        "compare.html",
        {
            "claim": CLAIM,
            "title": f"Ways to forget {things(c.request)}",
            "data": c.data,
            "classes": len(c.class_names),
            "lines": [_head(line, c) for line in c.lines],
            "headlines": [c.metrics[key].title for key in _headlines(c)],
            "plot": _plot(c),
            "rows": [_row(key, c) for key in c.metrics],
            "counted": [(c.metrics[key].title, c.metrics[key].scale) for key in c.counted],
        },
    )


def table(comparison: Comparison) -> Table:
    """Return the comparison for the terminal, with the metrics that are looked at first."""
    c = comparison
    notes = "; ".join(dict.fromkeys(f"* {line.flag}" for line in c.lines if line.flag))
    found = Table(title=f"ways to forget {things(c.request)}", box=None, caption=notes or None)
    found.add_column("method", no_wrap=True)
    for column in ("runs", "distance to retrained", *_headlines(c)):
        # in words, so that a narrow terminal breaks the heading and not the figures
        found.add_column(column.replace("_", " "), justify="right", min_width=6)
    for line in c.lines:
        cells = [_cell(line, k, c.metrics[k].unit) for k in _headlines(c)]
        far = _distance(line.distance)
        distance = f"{far['value']} ({far['interval']})" if far["interval"] else far["value"]
        runs = str(len(line.seeds) or "")
        name = f"{line.name} *" if line.flag else line.name
        figures = (cell["value"].replace(" ", _UNBROKEN) for cell in cells)
        found.add_row(name, runs, distance, *figures)
    return found


def plain(comparison: Comparison) -> dict[str, object]:
    """Return the comparison as JSON."""
    return {
        "forget": comparison.request.model_dump(mode="json"),
        "data": comparison.data,
        "counted": list(comparison.counted),
        "lines": [asdict(line) for line in comparison.lines],
    }


def _headlines(c: Comparison) -> list[str]:
    forgotten = [key for key in ("test_forget_acc", "forget_acc") if key in c.metrics]
    return forgotten[:1] + [key for key in _HEADLINES if key in c.metrics]


def _head(line: Line, c: Comparison) -> dict[str, object]:
    return {
        "name": line.name,
        "colour": COLOURS[line.subject],
        "masked": line.subject == "logit-mask",
        "reference": line.subject != "edited",
        "flag": line.flag,
        "seeds": _seeds(line),
        "runs": ", ".join(line.runs),
        "distance": _distance(line.distance),
        "cells": [_cell(line, k, c.metrics[k].unit) for k in _headlines(c)],
    }


def _seeds(line: Line) -> str:
    seeds = ", ".join(map(str, line.seeds))
    if len(line.seeds) > 1:
        return f"{len(line.seeds)} runs, seeds {seeds}"
    return f"seed {seeds}" if seeds else ""


def _row(key: str, c: Comparison) -> dict[str, object]:
    metric = c.metrics[key]
    return {
        "key": key,
        "title": metric.title[:1].upper() + metric.title[1:],
        "about": metric.about,
        "weak": metric.weak,
        "counted": key in c.counted,
        "cells": [_cell(line, key, metric.unit) for line in c.lines],
        "better": metric.direction,
        "target": target(metric),
        "chance": chance(metric),
    }


def _cell(line: Line, key: str, unit: str) -> dict[str, str]:
    measure = line.measures.get(key)
    if measure is None:
        return {"value": "", "interval": "", "n": "", "note": ""}
    return {
        "value": shown(measure.value, unit),
        "interval": interval(measure.ci95, unit),
        "n": f"{measure.n} runs" if key in line.repeated else f"n = {measure.n}",
        "note": measure.note,
    }


def _distance(measure: Measure | None) -> dict[str, str]:
    if measure is None:
        return {"value": "", "interval": "", "n": "", "note": ""}
    return {
        "value": shown(measure.value, "score"),
        "interval": interval(measure.ci95, "score"),
        "n": f"{measure.n} runs" if measure.n > 1 else "",
        "note": "",
    }


def _plot(c: Comparison) -> Plot | None:
    rows = [
        (line.name, COLOURS[line.subject], line.distance.value, line.distance.ci95)
        for line in c.lines
        if line.distance is not None
    ]
    if not rows:
        return None
    title = "Distance to the retrained network"
    caption = "0 is no difference; lines are 95 % intervals over runs with different seeds."
    return Plot(title, caption, ranges(title, rows))
