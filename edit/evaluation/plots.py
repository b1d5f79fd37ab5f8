"""The charts of a report, drawn from an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bandstop.edit.evaluation.axes import Curve, bars, lines
from bandstop.edit.evaluation.records import Evaluation
from bandstop.edit.evaluation.svg import INK, SOFT
from bandstop.edit.evaluation.wording import LABELS, SUBJECTS

# Okabe and Ito's palette, which people with a colour weakness can tell apart, and a grey
COLOURS = {
    "original": "#7a808a",
    "edited": "#0072b2",
    "retrained": "#009e73",
    "logit-mask": "#e69f00",
}
_DASHES = {"original": "", "edited": "", "retrained": "6 3", "logit-mask": "2 3"}
_CLASSES = 24  # in one chart


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart with its words.

    Attributes:
        title: what it shows.
        caption: how to read it.
        svg: the picture.
        legend: (label, colour, dashed) of each kind of mark.
    """

    title: str
    caption: str
    svg: Markup
    legend: tuple[tuple[str, str, bool], ...] = ()


def per_class(e: Evaluation) -> Plot | None:
    """Return test accuracy class by class, before, after and retrained."""
    values = {s: e.per_class[s] for s in SUBJECTS[:3] if s in e.per_class}
    if not values:
        return None
    rows, cut = _most_moved(e, values)
    title = "Test accuracy of each class"
    caption = "In percent." + _in_bold(e)
    if cut:
        caption += f" Of {len(e.class_names)} classes, those forgotten and those that moved most."
    return _bar_plot(e, title, caption, values, rows)


def destinations(e: Evaluation) -> Plot | None:
    """Return what each network calls the forgotten images."""
    values = {s: e.destinations[s] for s in SUBJECTS if s in e.destinations}
    if not values:
        return None
    largest = [max(column) for column in zip(*values.values(), strict=True)]
    order = sorted(range(len(largest)), key=lambda c: -largest[c])
    rows = sorted(c for c in order[:12] if largest[c] >= 0.02)
    title = "Where the forgotten images went"
    caption = "Share of them by the class that a network answers, in percent." + _in_bold(e)
    if any(largest[c] > 0 for c in set(order) - set(rows)):
        caption += " Rare answers are left out."
    return _bar_plot(e, title, caption, values, rows)


def relearn(e: Evaluation) -> Plot | None:
    """Return how fast each network learns again what it forgot."""
    curves = [
        _curve(subject, list(enumerate(e.curves.relearn[subject])))
        for subject in SUBJECTS
        if subject in e.curves.relearn
    ]
    if not curves:
        return None
    caption = "Accuracy on what was forgotten, in percent, while the network is trained again."
    return _line_plot("Relearning", caption, curves, "epochs of relearning", percent=True)


def cka(e: Evaluation) -> list[Plot]:
    """Return how similar each network's layers are to the original's and to the retrained's."""
    plots = []
    for reference, subjects in e.curves.cka.items():
        layers = list(dict.fromkeys(layer for values in subjects.values() for layer in values))
        curves = [
            _curve(name, [(layers.index(layer) + 1, v) for layer, v in subjects[name].items()])
            for name in SUBJECTS
            if name in subjects and name != reference
        ]
        if curves and layers:
            title = f"Similarity to the {reference} network, layer by layer"
            caption = (
                "Linear CKA of the answers to the forgotten images: 1 is the same, up to a "
                f"rotation. Layer 1 is {layers[0]}, layer {len(layers)} is {layers[-1]}."
            )
            plots.append(_line_plot(title, caption, curves, "layer"))
    return plots


def insertion(e: Evaluation) -> list[Plot]:
    """Return the curves of opening and of closing WF-Net's masks, with the random order."""
    found = e.curves.insertion
    if found is None:
        return []
    pairs = (
        ("Opening the masks (insertion)", found.insertion, found.insertion_random, "opened"),
        ("Closing the masks (deletion)", found.deletion, found.deletion_random, "closed"),
    )
    plots = []
    for title, own, random, done in pairs:
        curves = [
            Curve("most closed first", COLOURS["edited"], "", _along(found.fractions, own)),
            Curve("random order", SOFT, "6 3", _along(found.fractions, random)),
        ]
        caption = (
            "Confidence in the true class of the forgotten images, 1 is the original's, "
            f"by the share of masks {done}."
        )
        plots.append(_line_plot(title, caption, curves, f"share of masks {done}"))
    return plots


def forgotten_rows(e: Evaluation, most: int = _CLASSES) -> list[int]:
    """Return at most `most` classes, those that were to be forgotten among them, in order."""
    asked = [c for c, name in enumerate(e.class_names) if name in e.artifact.request.classes]
    others = [c for c in range(len(e.class_names)) if c not in set(asked)]
    return sorted((asked + others)[:most])


def _most_moved(
    e: Evaluation, values: Mapping[str, Sequence[float | None]]
) -> tuple[list[int], bool]:
    before, after = (values.get(name) for name in ("original", "edited"))
    if len(e.class_names) <= _CLASSES or before is None or after is None:
        return forgotten_rows(e), len(e.class_names) > _CLASSES

    def moved(c: int) -> float:
        old, new = before[c], after[c]
        asked = e.class_names[c] in e.artifact.request.classes
        return (2.0 if asked else 0.0) + (0.0 if old is None or new is None else abs(old - new))

    return sorted(sorted(range(len(e.class_names)), key=lambda c: -moved(c))[:_CLASSES]), True


def _bar_plot(
    e: Evaluation,
    title: str,
    caption: str,
    values: Mapping[str, Sequence[float | None]],
    rows: Sequence[int],
) -> Plot:
    groups = [
        (
            e.class_names[c],
            e.class_names[c] in e.artifact.request.classes,
            [(LABELS[s], COLOURS[s], column[c]) for s, column in values.items()],
        )
        for c in rows
    ]
    legend = tuple((LABELS[s], COLOURS[s], False) for s in values)
    return Plot(title, caption, bars(title, groups), legend)


def _line_plot(
    title: str, caption: str, curves: Sequence[Curve], x: str, *, percent: bool = False
) -> Plot:
    legend = tuple((c.label, c.colour, bool(c.dash)) for c in curves)
    return Plot(title, caption, lines(title, curves, x, percent=percent), legend)


def _curve(subject: str, points: Sequence[tuple[float, float]]) -> Curve:
    return Curve(LABELS[subject], COLOURS.get(subject, INK), _DASHES[subject], points)


def _along(fractions: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(fractions, values, strict=True))


def _in_bold(e: Evaluation) -> str:
    return " Forgotten classes in bold." if e.artifact.request.classes else ""
