"""Drawing: an SVG picture of a few elements, with text that stays text."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from markupsafe import Markup

WIDTH = 360  # of every picture, so that on a phone its text keeps its size
INK, SOFT, GRID = "#1d2129", "#5c6470", "#e3e6ea"


def picture(height: float, label: str) -> ET.Element:
    """Return an empty picture of WIDTH x `height`; `label` is read to those who do not see it."""
    return ET.Element(
        "svg", {"viewBox": f"0 0 {WIDTH} {height:.0f}", "role": "img", "aria-label": label}
    )


def markup(svg: ET.Element) -> Markup:
    """Return the picture as it stands in a page; names in it are escaped."""
    return Markup(ET.tostring(svg, encoding="unicode"))


def text(
    parent: ET.Element,
    at: tuple[float, float],
    content: str,
    *,
    anchor: str = "start",
    size: float = 11,
    colour: str = SOFT,
    bold: bool = False,
    turned: int = 0,
) -> None:
    """Write `content` at `at`, its foot at the start, middle or end; `turned` in degrees."""
    place = {"x": f"{at[0]:.1f}", "y": f"{at[1]:.1f}", "text-anchor": anchor}
    look = {"font-size": f"{size:g}", "fill": colour}
    if bold:
        look["font-weight"] = "700"
    if turned:
        look["transform"] = f"rotate({turned} {at[0]:.1f} {at[1]:.1f})"
    ET.SubElement(parent, "text", {**place, **look}).text = content


def box(
    parent: ET.Element,
    at: tuple[float, float],
    size: tuple[float, float],
    colour: str,
    hint: str = "",
) -> None:
    """Fill a rectangle; `hint` appears when the pointer rests on it."""
    element = ET.SubElement(
        parent,
        "rect",
        {
            "x": f"{at[0]:.1f}",
            "y": f"{at[1]:.1f}",
            "width": f"{max(size[0], 0):.1f}",
            "height": f"{size[1]:.1f}",
            "fill": colour,
        },
    )
    if hint:
        ET.SubElement(element, "title").text = hint


def line(
    parent: ET.Element,
    points: Sequence[tuple[float, float]],
    colour: str,
    *,
    width: float = 1,
    dash: str = "",
) -> None:
    """Join `points`."""
    look = {"fill": "none", "stroke": colour, "stroke-width": f"{width:g}"}
    if dash:
        look["stroke-dasharray"] = dash
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    ET.SubElement(parent, "polyline", {"points": places, "stroke-linejoin": "round", **look})


def dot(
    parent: ET.Element, at: tuple[float, float], colour: str, radius: float = 3, hint: str = ""
) -> None:
    """Set a dot."""
    element = ET.SubElement(
        parent,
        "circle",
        {"cx": f"{at[0]:.1f}", "cy": f"{at[1]:.1f}", "r": f"{radius:g}", "fill": colour},
    )
    if hint:
        ET.SubElement(element, "title").text = hint


def short(name: str, most: int) -> str:
    """Return `name` with at most `most` characters."""
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def shade(share: float) -> str:
    """Return a blue that is darker for a greater share of 0..1; it reads in grey, too."""
    light, dark = (0xEA, 0xF2, 0xFA), (0x08, 0x3A, 0x6E)
    part = min(max(share, 0.0), 1.0)
    return "#" + "".join(
        f"{round(a + part * (b - a)):02x}" for a, b in zip(light, dark, strict=True)
    )
