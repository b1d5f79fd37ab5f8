"""How long a call may take."""

import time
from dataclasses import dataclass

from bandstop.client.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Limit:
    """`seconds` for each call about `model` to the server at `url`."""

    seconds: float
    url: str
    model: str

    def until(self) -> float:
        """Return when a call that starts now has to end, as time.monotonic() counts."""
        return time.monotonic() + self.seconds

    def left(self, until: float) -> float:
        """Return the seconds until then; raises DeadlineExceeded where there are none."""
        left = until - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> DeadlineExceeded:
        """Return the error of a call that took too long."""
        return DeadlineExceeded(
            f"{self.url}: no answer for model {self.model} within {self.seconds:g} s; "
            "give a longer deadline or fewer images"
        )
