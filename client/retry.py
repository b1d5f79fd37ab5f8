"""Which failures are worth another try, when, and how often."""

from dataclasses import dataclass, field
from random import Random
from threading import Lock

from bandstop.client.errors import ClientError, Draining, Overloaded, Unavailable, Unreachable

# The only retries there are, in place of those of gRPC's service config: gRPC goes by the status
# code alone, but Triton refuses a restricted call with UNAVAILABLE (not to be tried again) and a
# draining model with NOT_FOUND (to be tried again). Its wait-for-ready would gain nothing either:
# a server that was known and cannot be reached is tried until the deadline, within a second each.
RETRYABLE = (Unavailable, Overloaded, Draining)
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


@dataclass(slots=True)
class RetryBudget:
    """Keeps a failing server from being asked ever more often; shared by threads.

    A retry costs one token, an answer earns `refund`: over time at most one request in ten is
    a repeated one. A server that nobody reaches, or that drains, is not loaded by asking again.
    """

    tokens: float = 10.0
    most: float = 10.0
    refund: float = 0.1
    _lock: Lock = field(default_factory=Lock)

    def allows(self, error: ClientError) -> bool:
        """Return whether `error` may be followed by another try, and pay for it."""
        if not isinstance(error, RETRYABLE):
            return False
        if isinstance(error, Unreachable | Draining):
            return True
        with self._lock:
            if self.tokens < 1:
                return False
            self.tokens -= 1
            return True

    def earn(self) -> None:
        """Count one answer."""
        if self.tokens >= self.most:
            return
        with self._lock:
            self.tokens = min(self.most, self.tokens + self.refund)


def pause(attempt: int, random: Random) -> float:
    """Return the seconds to wait after failed try number `attempt`, from 0 on: longer each time.

    Half of it is random, so that clients that failed together do not come back together.
    """
    longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt, 10))
    return longest * (0.5 + random.random() / 2)
