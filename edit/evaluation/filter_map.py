"""Which filters WF-Net's masks close for which class, and which ones classes share."""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from torch import Tensor

from bandstop.edit.evaluation.plots import Plot, forgotten_rows
from bandstop.edit.evaluation.record_parts import FilterRecord
from bandstop.edit.evaluation.records import Evaluation
from bandstop.edit.evaluation.svg import INK, WIDTH, box, markup, picture, shade, short, text

_COLUMNS = 64
_NUMBERED = 12  # classes up to which a matrix has its numbers written in
_LEFT = 96

Filters = Mapping[str, Mapping[str, Sequence[FilterRecord]]]


def most_closed(
    masks: Mapping[str, Tensor], class_names: Sequence[str], top: int = 5
) -> dict[str, dict[str, list[FilterRecord]]]:
    """Return the `top` channels of every layer that each class's mask closes most.

    Args:
        masks: parameter name -> (classes, channels) in [0, 1], as in a `GateEdit`.
        class_names: in order of the rows.
        top: channels a class and layer; those that stay open are left out.
    """
    found: dict[str, dict[str, list[FilterRecord]]] = {}
    for layer, mask in masks.items():
        closed, channels = (1 - mask.double()).topk(min(top, mask.shape[1]), dim=1)
        found[layer] = {
            name: [
                FilterRecord(channel=channel, closed=value)
                for channel, value in zip(channels[c].tolist(), closed[c].tolist(), strict=True)
                if value > 0
            ]
            for c, name in enumerate(class_names)
        }
    return found


def shared(filters: Filters, class_names: Sequence[str]) -> list[list[int]]:
    """Return how many of its channels each class has in common with each other one.

    Args:
        filters: layer -> class -> the channels that its mask closes most.
        class_names: the rows and columns.
    """
    own = [
        {(layer, f.channel) for layer, of in filters.items() for f in of.get(name, ())}
        for name in class_names
    ]
    return [[len(a & b) for b in own] for a in own]


def maps(e: Evaluation) -> list[Plot]:
    """Return a chart a layer: classes against the filters that their masks close most."""
    names = [e.class_names[c] for c in forgotten_rows(e)]
    return [_map(layer, of, names, e) for layer, of in e.filters.items()]


def matrix(e: Evaluation) -> Plot | None:
    """Return how many filters the classes share, class against class."""
    if not e.filters:
        return None
    names = [e.class_names[c] for c in forgotten_rows(e)]
    counts = shared(e.filters, names)
    most = max([1, *(n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j)])
    cell = (WIDTH - _LEFT - 4) / len(names)
    height = min(cell, 24)
    title = "Filters that two classes share"
    svg = picture(height * len(names) + 72, f"{title}: at most {most}")
    for i, row in enumerate(counts):
        _name(svg, names[i], i * height + height / 2 + 4, e)
        for j, count in enumerate(row):
            at = (_LEFT + j * cell, i * height)
            part = count / most
            colour = "#f3f4f6" if i == j else shade(part)
            box(svg, at, (cell - 1, height - 1), colour, f"{names[i]} and {names[j]}: {count}")
            if len(names) <= _NUMBERED:
                ink = "#ffffff" if i != j and part > 0.5 else INK
                middle = (at[0] + cell / 2, at[1] + height / 2 + 3.5)
                text(svg, middle, str(count), anchor="middle", size=10, colour=ink)
    for j, name in enumerate(names):
        foot = (_LEFT + (j + 0.6) * cell, height * len(names) + 8)
        text(svg, foot, short(name, 12), anchor="end", size=10, turned=-60)
    caption = (
        "Of the filters in the maps, how many are closed for both classes; "
        "on the diagonal, the class's own. Classes that share many are forgotten together in part."
    )
    return Plot(title, caption, markup(svg))


def _map(
    layer: str, of: Mapping[str, Sequence[FilterRecord]], names: Sequence[str], e: Evaluation
) -> Plot:
    closed = {(name, f.channel): f.closed for name in names for f in of.get(name, ())}
    users: dict[int, int] = {}
    for _, channel in closed:
        users[channel] = users.get(channel, 0) + 1
    order = sorted(users, key=lambda channel: (-users[channel], channel))[:_COLUMNS]
    step, height = 13, 13 * len(names)
    cell = min(14.0, (WIDTH - _LEFT - 2) / max(len(order), 1))
    svg = picture(height + 4, f"{layer}: {len(users)} filters, {_widest(users)}")
    box(svg, (_LEFT, 0), (cell * len(order), height), "#f6f7f9")
    for i, name in enumerate(names):
        _name(svg, name, i * step + 10, e, size=10)
        for j, channel in enumerate(order):
            value = closed.get((name, channel))
            if value is not None:
                hint = f"{name}, filter {channel}: {100 * value:.0f} % closed"
                at = (_LEFT + j * cell, i * step)
                box(svg, at, (max(cell - 1, cell * 0.8), step - 1), shade(value), hint)
    caption = f"{len(users)} filters; {_widest(users)}."
    if len(users) > _COLUMNS:
        caption += f" The {_COLUMNS} that most classes close are shown."
    return Plot(layer, caption, markup(svg))


def _widest(users: Mapping[int, int]) -> str:
    if not users:
        return "none is closed"
    channel = max(users, key=lambda c: (users[c], -c))
    return f"filter {channel} is closed for {users[channel]} classes, the most of any"


def _name(svg: Element, name: str, y: float, e: Evaluation, size: float = 11) -> None:
    bold = name in e.artifact.request.classes
    text(svg, (_LEFT - 6, y), short(name, 14), anchor="end", size=size, colour=INK, bold=bold)
