"""What was measured, and how sure it is: 95 % intervals of shares, means and anything else."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Z95 = 1.959963984540054  # 97.5 % of a normal distribution lie below
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Measure:
    """A number with what it rests on.

    Attributes:
        value: as the metric defines it.
        ci95: 95 % interval; None where nothing says how sure the value is.
        n: how many images, networks or repeats the value is over.
        note: what has to be known to read it, such as a cap that was reached.
    """

    value: float
    ci95: tuple[float, float] | None
    n: int
    note: str = ""


def share(hits: int, n: int) -> Measure:
    """Return the share `hits` / `n` with its Wilson interval (1927), which never leaves 0..1.

    Raises:
        ValueError: of nothing.
    """
    if not 0 <= hits <= n or not n:
        raise ValueError(f"{hits} of {n} is no share")
    p, z2 = hits / n, Z95 * Z95 / n
    middle = (p + z2 / 2) / (1 + z2)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    # at its ends the formula gives 0 and 1 but for rounding
    return Measure(p, (middle - half if hits else 0.0, middle + half if hits < n else 1.0), n)


def mean(values: Tensor) -> Measure:
    """Return the mean of `values` (n,) with the interval of a normal distribution."""
    values = values.double()
    n = len(values)
    if not n:
        raise ValueError("the mean of nothing is not defined")
    value = values.mean().item()
    if n == 1:
        return Measure(value, None, 1)
    half = Z95 * values.std().item() / math.sqrt(n)
    return Measure(value, (value - half, value + half), n)


def bootstrapped(statistic: Callable[[Tensor], float], n: int, *, seed: int = 0) -> Measure:
    """Return a statistic of `n` images with its percentile bootstrap interval (Efron 1979).

    Args:
        statistic: of the images at the positions (n,) that it is given; NaN where those that were
            drawn do not define it.
        n: how many images there are.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    value = statistic(torch.arange(n))
    drawn = [statistic(torch.randint(n, (n,), generator=generator)) for _ in range(_RESAMPLES)]
    known = torch.tensor([d for d in drawn if not math.isnan(d)], dtype=torch.float64)
    if len(known) < _RESAMPLES // 2:
        return Measure(value, None, n)
    low, high = known.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # a sum of absolute values is larger in every resample than in all the images
    return Measure(value, (min(low, value), max(high, value)), n)
