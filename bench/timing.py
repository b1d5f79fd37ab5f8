"""Two ways of doing the same, timed in turns, so that a busy machine slows both alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by the clock and seconds of processor time of all threads."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both sides spent, round by round."""

    ours: tuple[Spent, ...]
    reference: tuple[Spent, ...]

    @property
    def ratio(self) -> float:
        """Median over the rounds of ours / reference by the clock."""
        return statistics.median(self._ratios())

    @property
    def ours_s(self) -> float:
        """Median seconds of ours by the clock."""
        return statistics.median(s.wall for s in self.ours)

    @property
    def reference_s(self) -> float:
        """Median seconds of the reference by the clock."""
        return statistics.median(s.wall for s in self.reference)

    @property
    def cpu_ratio(self) -> float:
        """Median over the rounds of ours / reference by processor time."""
        return statistics.median(self._cpu_ratios())

    def as_json(self) -> dict[str, object]:
        """Return ratios, interquartile ranges, seconds and the number of rounds."""
        return {
            "ratio": self.ratio,
            "ratio_quartiles": quartiles(self._ratios()),
            "cpu_ratio": self.cpu_ratio,
            "cpu_ratio_quartiles": quartiles(self._cpu_ratios()),
            "ours_s": self.ours_s,
            "reference_s": self.reference_s,
            "rounds": len(self.ours),
        }

    def _ratios(self) -> list[float]:
        return [a.wall / b.wall for a, b in zip(self.ours, self.reference, strict=True)]

    def _cpu_ratios(self) -> list[float]:
        return [a.cpu / b.cpu for a, b in zip(self.ours, self.reference, strict=True)]


def spent(work: Callable[[], object]) -> Spent:
    """Return what one call of `work` spends."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    ours: Callable[[], object], reference: Callable[[], object], rounds: int
) -> Comparison:
    """Return what both spend in `rounds` rounds; who goes first changes from round to round."""
    a, b = [], []
    for turn in range(rounds):
        if turn % 2:
            b.append(spent(reference))
            a.append(spent(ours))
        else:
            a.append(spent(ours))
            b.append(spent(reference))
    return Comparison(tuple(a), tuple(b))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and third quartile; of one value, that value twice."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
