"""What `bandstop watch` shows to people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bandstop.cli.watch_rates import Row

MOST_CLASSES = 12
_NUMBERS = ("req/s", "img/s", "ms", "queue ms", "run ms", "batch", "in flight", "pending", "failed")


def view(url: str, rows: Sequence[Row], error: str | None) -> RenderableType:
    """Return a table of `rows`; below it what was forgotten, and what is wrong with the server."""
    table = Table(title=_text(url), title_justify="left", box=None, pad_edge=False)
    for name in ("model", "version"):
        table.add_column(name, no_wrap=True)
    table.add_column("state")
    for name in _NUMBERS:
        table.add_column(name, justify="right", min_width=len(name.split()[0]))
    for row in rows:
        table.add_row(*map(_text, (row.model, row.version, row.state)), *map(_number, _values(row)))
    below = [_forgotten(row) for row in rows if row.forgotten]
    if error is not None:
        below.append(Text(f"error: {error}", style="red"))
    return Group(table, *below)


def _values(row: Row) -> tuple[float | None, ...]:
    rates = row.rates
    return (
        rates.requests_per_second,
        rates.images_per_second,
        rates.latency_ms,
        rates.queue_ms,
        rates.compute_ms,
        rates.batch,
        rates.in_flight,
        row.pending,
        row.failed,
    )


def _forgotten(row: Row) -> Text:
    """Return the images since the version was loaded, the most frequent classes first."""
    counts = sorted((row.forgotten or {}).items(), key=lambda pair: -pair[1])
    told = ", ".join(f"{name} {count}" for name, count in counts[:MOST_CLASSES])
    more = f", and {len(counts) - MOST_CLASSES} more" if len(counts) > MOST_CLASSES else ""
    return _text(f"{row.model} {row.version} images by forgotten class: {told}{more}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _text(text: str) -> Text:
    """Return what a server said, as it is shown on a terminal: no markup, no control codes."""
    return Text(text if text.isprintable() else repr(text))
