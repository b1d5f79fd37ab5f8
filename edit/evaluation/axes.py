"""Bars, lines and ranges on axes, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bandstop.edit.evaluation.svg import (
    GRID,
    INK,
    SOFT,
    WIDTH,
    box,
    dot,
    line,
    markup,
    picture,
    short,
    text,
)

_LEFT, _RIGHT = 96, 34  # room for names and for numbers
_BAR, _GAP = 11, 9
_HEIGHT = 230  # of a chart with lines
_FRAME = (40.0, 350.0, 12.0, 192.0)  # its left, right, top and bottom

Group = tuple[str, bool, Sequence[tuple[str, str, float | None]]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line.

    Attributes:
        points: (x, y).
        dash: of SVG; empty is a solid line.
    """

    label: str
    colour: str
    dash: str
    points: Sequence[tuple[float, float]]


def bars(title: str, groups: Sequence[Group]) -> Markup:
    """Return bars of shares.

    Args:
        title: what they show.
        groups: (name, whether in bold, (label, colour, share) of each bar); None has no bar.
    """
    height = sum(_BAR * len(g[2]) + _GAP for g in groups) + _GAP
    svg = picture(height, f"{title}: {_in_words(groups)}")
    end = WIDTH - _RIGHT
    line(svg, [(_LEFT, 0), (_LEFT, height)], SOFT)
    for part in (0.5, 1.0):
        x = _LEFT + part * (end - _LEFT)
        line(svg, [(x, 0), (x, height)], GRID)
    y = float(_GAP)
    for name, bold, values in groups:
        middle = y + _BAR * len(values) / 2 + 4
        text(svg, (_LEFT - 6, middle), short(name, 14), anchor="end", colour=INK, bold=bold)
        for label, colour, share in values:
            width = (share or 0) * (end - _LEFT)
            said = "no image" if share is None else f"{100 * share:.0f}"
            box(svg, (_LEFT, y), (width, _BAR - 1.5), colour, f"{name}, {label}: {said}")
            text(svg, (_LEFT + width + 3, y + _BAR - 2), said, size=10)
            y += _BAR
        y += _GAP
    return markup(svg)


def lines(title: str, curves: Sequence[Curve], x: str, *, percent: bool = False) -> Markup:
    """Return curves over a common axis from 0; `x` says what the axis is.

    Args:
        title: what they show.
        curves: at least one, each of at least one point.
        x: the name of the horizontal axis.
        percent: whether the values are shares that are shown in percent.
    """
    ends = "; ".join(
        f"{c.label} from {c.points[0][1]:.2f} to {c.points[-1][1]:.2f}" for c in curves
    )
    svg = picture(_HEIGHT, f"{title}: {ends}")
    left, right, top, bottom = _FRAME
    places = [p[0] for c in curves for p in c.points]
    low, high = min(places), max(max(places), min(places) + 1e-9)
    most = max(1.0, *(p[1] for c in curves for p in c.points))

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - low) / (high - low)
        return left + across * (right - left), bottom - point[1] / most * (bottom - top)

    for value in _steps(0, most):
        y = at((low, value))[1]
        line(svg, [(left, y), (right, y)], SOFT if value == 0 else GRID)
        said = f"{100 * value:.0f}" if percent else f"{value:g}"
        text(svg, (left - 5, y + 4), said, anchor="end", size=10)
    for value in _steps(low, high, whole=all(float(place).is_integer() for place in places)):
        text(svg, (at((value, 0))[0], bottom + 14), f"{value:g}", anchor="middle", size=10)
    text(svg, ((left + right) / 2, bottom + 31), x, anchor="middle")
    for curve in curves:
        line(svg, [at(p) for p in curve.points], curve.colour, width=2, dash=curve.dash)
        for p in curve.points if len(curve.points) <= 30 else ():
            dot(svg, at(p), curve.colour, 2.2, f"{curve.label}: {p[1]:.3f} at {p[0]:g}")
    return markup(svg)


def ranges(
    title: str, rows: Sequence[tuple[str, str, float, tuple[float, float] | None]]
) -> Markup:
    """Return a dot a row with its interval, on an axis from 0.

    Args:
        title: what they show.
        rows: (name, colour, value, its 95 % interval).
    """
    step, left, right = 24, 130, 344
    height = step * len(rows) + 24
    said = "; ".join(f"{name} {value:.3f}" for name, _, value, _ in rows)
    svg = picture(height, f"{title}: {said}")
    most = max([1e-9, *(max(v, ci[1] if ci else v) for _, _, v, ci in rows)])

    def at(value: float) -> float:
        return left + max(value, 0.0) / most * (right - left)

    for value in _steps(0, most):
        line(svg, [(at(value), 4), (at(value), height - 18)], SOFT if value == 0 else GRID)
        text(svg, (at(value), height - 5), f"{value:g}", anchor="middle", size=10)
    for i, (name, colour, value, ci95) in enumerate(rows):
        y = step * i + 16
        text(svg, (left - 8, y + 4), short(name, 20), anchor="end", colour=INK)
        if ci95 is not None:
            line(svg, [(at(ci95[0]), y), (at(ci95[1]), y)], colour, width=2)
        dot(svg, (at(value), y), colour, 5, f"{name}: {value:.3f}")
    return markup(svg)


def _steps(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return a few round numbers from `low` to `high`; `whole` ones if asked."""
    rough = max((high - low) / 5, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def _in_words(groups: Sequence[Group]) -> str:
    most = 6  # a list of all would be read for minutes
    said = [
        f"{name} "
        + ", ".join(
            f"{label} {'no image' if v is None else f'{100 * v:.0f} %'}" for label, _, v in values
        )
        for name, _, values in groups[:most]
    ]
    return "; ".join(said) + (f"; and {len(groups) - most} more classes" if groups[most:] else "")
