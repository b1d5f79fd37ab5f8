"""Progress of long work: a bar on a terminal, a line now and then elsewhere; always on stderr."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from bandstop.edit import team

T = TypeVar("T")
_QUIET_S = 10.0  # between two lines where there is no terminal


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield `items` while showing how far `what` is; of a team the first process shows it."""
    if team.rank():
        yield from items
        return
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, what, console=console, transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items):
        yield item
        if time.monotonic() - last >= _QUIET_S:
            last = time.monotonic()
            sys.stderr.write(f"{what}: {done + 1} of {len(items)}\n")
