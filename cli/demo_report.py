"""What the demo shows: a table on the terminal, demo.json, and a report to look at."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from statistics import mean
from typing import TypedDict

import jinja2
from rich.table import Table

MODELS = ("original", "svd", "gated", "logit-mask", "retrained")
COLOURS = {
    "original": "#8a8f98",
    "svd": "#0b6fb8",
    "gated": "#d1495b",
    "logit-mask": "#c9a227",
    "retrained": "#2e8b57",
}
ABOUT = {
    "original": "as trained, nothing forgotten",
    "svd": "one edited network a class, weights changed for good",
    "gated": "WF-Net: one network for all classes, each request names what to forget",
    "logit-mask": "the class's logit switched off: hides the class, forgets nothing",
    "retrained": "trained from scratch without the class: what forgetting should look like",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One model asked to forget one class, on the test images.

    Attributes:
        model: one of MODELS.
        forget: the class.
        forget_acc: accuracy on the images of that class, 0..1.
        retain_acc: accuracy on all other images, 0..1.
        served: whether the answers came from Triton over gRPC.
        edit_norm: the smallest relative change of any layer, of any convolution for gated.
    """

    model: str
    forget: int
    forget_acc: float
    retain_acc: float
    served: bool
    edit_norm: float


class Outcome(TypedDict):
    """What demo.json holds."""

    seconds: float
    seed: int
    rows: list[dict[str, object]]
    batch_parity_max_abs: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One model over all the classes it was asked to forget."""

    model: str
    about: str
    classes: int
    forget_acc: float
    worst: float
    retain_acc: float
    cost: float
    served: bool


def outcome(rows: Sequence[Row], seconds: float, seed: int, parity: float) -> Outcome:
    """Return the content of demo.json."""
    return {
        "seconds": round(seconds, 1),
        "seed": seed,
        "rows": [asdict(row) for row in rows],
        "batch_parity_max_abs": parity,
    }


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Return one summary a model; `cost` is against the original on the same classes."""
    original = {row.forget: row.retain_acc for row in rows if row.model == "original"}
    result = []
    for model in MODELS:
        own = [row for row in rows if row.model == model]
        if own:
            result.append(
                Summary(
                    model,
                    ABOUT[model],
                    len(own),
                    forget_acc=mean(row.forget_acc for row in own),
                    worst=max(row.forget_acc for row in own),
                    retain_acc=mean(row.retain_acc for row in own),
                    cost=mean(row.retain_acc - original[row.forget] for row in own),
                    served=own[0].served,
                )
            )
    return result


def tables(rows: Sequence[Row], class_names: Sequence[str]) -> list[Table]:
    """Return the tables for the terminal: every class of the served models, then the summary."""
    detail = Table(title="test accuracy in % on the forgotten class / on the rest", box=None)
    detail.add_column("forget")
    for model in MODELS:
        detail.add_column(model, justify="right")
    for c, name in enumerate(class_names):
        cells = {
            r.model: f"{100 * r.forget_acc:.1f} / {100 * r.retain_acc:.1f}"
            for r in rows
            if r.forget == c
        }
        detail.add_row(name, *(cells.get(model, "") for model in MODELS))
    whole = Table(title="mean over the classes", box=None)
    for column in ("model", "forgotten", "worst class", "rest", "against original", "measured"):
        whole.add_column(column, justify="left" if column in ("model", "measured") else "right")
    for s in summaries(rows):
        whole.add_row(
            s.model,
            f"{100 * s.forget_acc:.2f} %",
            f"{100 * s.worst:.1f} %",
            f"{100 * s.retain_acc:.2f} %",
            f"{100 * s.cost:+.2f}",
            "through Triton" if s.served else f"locally ({s.classes} classes)",
        )
    return [detail, whole]


def report(rows: Sequence[Row], class_names: Sequence[str], result: Outcome) -> str:
    """Return the report as one self-contained HTML page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(
        files("bandstop.cli").joinpath("demo_report.html").read_text()
    )
    return template.render(
        rows=rows,
        models=MODELS,
        class_names=class_names,
        summaries=summaries(rows),
        colours=COLOURS,
        result=result,
        forget_plot=plot(rows, class_names, "forget_acc", "accuracy on the forgotten class"),
        retain_plot=plot(rows, class_names, "retain_acc", "accuracy on all other classes"),
    )


def plot(rows: Sequence[Row], class_names: Sequence[str], key: str, title: str) -> str:
    """Return the accuracy `key` of every model, class by class, as an SVG element."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for i, model in enumerate(MODELS):
        own = {row.forget: 100 * float(asdict(row)[key]) for row in rows if row.model == model}
        places = [c + 0.14 * (i - (len(MODELS) - 1) / 2) for c in own]
        # dots, because their axis may start anywhere; bars would have to start at 0
        axes.plot(places, list(own.values()), "o", ms=6, color=COLOURS[model], label=model)
    axes.set_xticks(range(len(class_names)), list(class_names))
    axes.set_xlabel("class to forget")
    axes.set_title(f"{title}, %", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e6ea")
    figure.legend(fontsize=8, ncols=len(MODELS), frameon=False, loc="outside lower center")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
