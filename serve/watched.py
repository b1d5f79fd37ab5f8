"""What a watchdog needs of the server that it looks after."""

from collections.abc import Callable
from typing import Protocol

from bandstop.serve.access import Access

Event = Callable[[str, str], None]  # a level and a message


class Server(Protocol):
    """What a watchdog has to be able to do with a server."""

    @property
    def access(self) -> Access:
        """What a caller has to know of it."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether it is meant to end."""
        ...

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    repairs: int

    def ends_within(self, seconds: float) -> bool:
        """Wait so long for it to end, and return whether it has."""
        ...

    def restart(self) -> None:
        """Put a new one in its place; raises ServeError where that does not come up."""
        ...
