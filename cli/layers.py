"""What an edit did to each layer, as a table on stderr."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from bandstop.edit.edits import Findings

_COLUMNS = {
    "relative_change": "weight changed",
    "forget_removed": "forget removed",
    "retain_removed": "retain removed",
}


def show_layers(found: Findings, console: Console | None = None) -> None:
    """Print a line for each layer that `found` reports on; nothing where it reports none."""
    columns = [found.get(key) for key in _COLUMNS]
    tables = [column for column in columns if isinstance(column, Mapping)]
    if len(tables) != len(_COLUMNS):
        return
    table = Table("layer", *_COLUMNS.values(), box=None)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for name in tables[0]:
        table.add_row(str(name), *(f"{100 * column[name]:.1f} %" for column in tables))
    (console or Console(stderr=True)).print(table)
