"""Scaled projections onto the space that a set of activations spans, without any decomposition.

The paper (arXiv 2312.00761) takes the SVD of the activations, keeps the basis U and scales basis
vector i by `alpha s_i / ((alpha - 1) s_i + 1)` (eq. 2), s being the normalised energies. That is a
rational function of the second moment C with trace 1:

    P(alpha) = alpha C (I + (alpha - 1) C)^-1

so one Cholesky factor a side takes the place of the SVD, exactly. What is left over needs no
product with C:

    I - P(alpha) = (alpha (I + (alpha - 1) C)^-1 - I) / (alpha - 1)

Where there are few rows A, `C = A^T A` is never made:

    P(alpha) = alpha A^T (I + (alpha - 1) A A^T)^-1 A
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# features; wider sums, factors and weights stay in float32, for memory and time
DOUBLE_UP_TO = 1024
_NEAR_ONE = 0.5  # of alpha: there the difference above loses digits
_BLOCKS = 8
_SMALLEST_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Rows:
    """A second moment `A^T A` of few rows, as the rows themselves.

    Attributes:
        rows: A, (groups, n, d).
    """

    rows: Tensor


Space = Tensor | Rows  # a second moment (..., d, d), or its rows


def normalise_(space: Space) -> None:
    """Give a second moment trace 1, in place; a zero moment stays zero."""
    if isinstance(space, Rows):
        trace = space.rows.square().sum((-2, -1), keepdim=True)
        space.rows.div_(_or_one(trace).sqrt())
        return
    trace = space.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    space.div_(_or_one(trace))


def normalised(moment: Tensor) -> Tensor:
    """Return second moments (..., d, d) with trace 1; a zero moment stays zero."""
    unit = moment.clone()
    normalise_(unit)
    return unit


def factor(unit: Space, alpha: float) -> Tensor:
    """Return the Cholesky factor of `I + (alpha - 1) C` (condition at most max(alpha, 1/alpha)).

    Args:
        unit: C with trace 1, (..., d, d), or its rows A; then of `I + (alpha - 1) A A^T`.
        alpha: scaling, > 0.
    """
    moment = unit.rows @ unit.rows.mT if isinstance(unit, Rows) else unit
    shifted = moment.to(_working_dtype(moment), copy=True).mul_(alpha - 1).mT
    shifted.diagonal(dim1=-2, dim2=-1).add_(1)
    # in place: the transpose is in LAPACK's order, so that torch makes no copy
    lower: Tensor = torch.linalg.cholesky(shifted, out=shifted)
    return lower


def project(x: Tensor, unit: Space, alpha: float, cholesky: Tensor | None = None) -> Tensor:
    """Return `x P(alpha)`, the rows of x (..., out, d) projected onto the scaled space of C.

    Args:
        x: rows.
        unit: C with trace 1, (..., d, d), or its rows A.
        alpha: 0 gives zero; 1 gives x C; towards infinity the plain projector onto C's range.
        cholesky: `factor(unit, alpha)` where the caller has it already.
    """
    if alpha == 0:
        return torch.zeros_like(x)
    lower = factor(unit, alpha) if cholesky is None else cholesky
    if isinstance(unit, Rows):
        rows = unit.rows.to(x.dtype)
        scaled = alpha * (x @ rows.mT).to(lower.dtype)
        return _divided(scaled, lower).to(x.dtype) @ rows
    scaled = (x.to(lower.dtype) @ unit.to(lower.dtype)).mul_(alpha)
    return _divided(scaled, lower).to(x.dtype)


def _divided(x: Tensor, lower: Tensor) -> Tensor:
    """Return `x (L L^T)^-1`."""
    half = torch.linalg.solve_triangular(lower.mT, x, upper=True, left=False)
    whole: Tensor = torch.linalg.solve_triangular(lower, half, upper=False, left=False)
    return whole


def not_shared(weight: Tensor, retain: Space, alpha_r: float) -> Tensor:
    """Return `W (I - P_r)`, what of the rows of W (..., out, d) retain does not use."""
    if isinstance(retain, Rows) or alpha_r == 0 or abs(alpha_r - 1) < _NEAR_ONE:
        return weight - project(weight, retain, alpha_r)
    lower = factor(retain, alpha_r)
    rows = weight.to(lower.dtype)
    return _divided(rows, lower).mul_(alpha_r).sub_(rows).div_(alpha_r - 1).to(weight.dtype)


def without_forget_space(
    weight: Tensor,
    retain: Space,
    forget: Space,
    alpha_r: float,
    alpha_f: float,
    *,
    rest: Tensor | None = None,
    cholesky: Tensor | None = None,
) -> Tensor:
    """Return `W (I - P_dis)^T` with `P_dis = P_f (I - P_r)` (paper, algorithm 1, line 11).

    The transpose matters: a forget direction is mapped exactly onto what retain shares with it.

    Args:
        weight: W, (..., out, d).
        retain: normalised second moment of the retain activations, or its rows.
        forget: the same of the forget activations.
        alpha_r: scaling of the retain space.
        alpha_f: scaling of the forget space.
        rest: `not_shared(weight, retain, alpha_r)` where the caller has it already.
        cholesky: `factor(forget, alpha_f)` where the caller has it already.
    """
    rest = not_shared(weight, retain, alpha_r) if rest is None else rest
    return weight - project(rest, forget, alpha_f, cholesky)


def energy(weight: Tensor, unit: Space) -> float:
    """Return `trace(W C W^T)`, the mean squared output of W (..., out, d) on the rows behind C."""
    if isinstance(unit, Rows):
        return float((unit.rows.to(weight.dtype) @ weight.mT).square().sum())
    total = 0.0
    for start, stop in column_blocks(unit.shape[-1]):
        own = weight[..., start:stop]
        block = unit[..., start:, start:stop].to(weight.dtype)  # on and below the diagonal
        twice = 2 * (weight[..., start:] @ block) - own @ block[..., : stop - start, :]
        total += float((twice * own).sum())
    return total


def column_blocks(d: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of a few blocks of columns, for work on one triangle of (d, d)."""
    size = max(_SMALLEST_BLOCK, -(-d // _BLOCKS))
    yield from ((start, min(start + size, d)) for start in range(0, d, size))


def _working_dtype(moment: Tensor) -> torch.dtype:
    return torch.float64 if moment.shape[-1] <= DOUBLE_UP_TO else moment.dtype


def _or_one(trace: Tensor) -> Tensor:
    return torch.where(trace > 0, trace, torch.ones_like(trace))
