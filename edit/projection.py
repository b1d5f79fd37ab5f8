"""Scaled projections onto the space that a set of activations spans, without any decomposition.

The paper (arXiv 2312.00761) takes the SVD of the activations, keeps the basis U and scales basis
vector i by `alpha s_i / ((alpha - 1) s_i + 1)` (eq. 2), s being the normalised energies. That is a
rational function of the second moment C with trace 1:

    P(alpha) = alpha C (I + (alpha - 1) C)^-1

so one Cholesky factor a side takes the place of the SVD, exactly. Where there are fewer rows A than
features, `C = A^T A` is never made:

    P(alpha) = alpha A^T (I + (alpha - 1) A A^T)^-1 A
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_DOUBLE_UP_TO = 2048  # features; a larger factor stays in the dtype of its moment, to save memory


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
    shifted = moment.to(_working_dtype(moment)) * (alpha - 1)
    shifted.diagonal(dim1=-2, dim2=-1).add_(1)
    lower: Tensor = torch.linalg.cholesky(shifted)
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
    right = unit.rows.to(x.dtype).mT if isinstance(unit, Rows) else unit.to(lower.dtype)
    scaled = alpha * (x.to(right.dtype) @ right).to(lower.dtype)
    del right
    solved = torch.cholesky_solve(scaled.mT, lower).mT.to(x.dtype)
    return solved @ unit.rows.to(x.dtype) if isinstance(unit, Rows) else solved


def not_shared(weight: Tensor, retain: Space, alpha_r: float) -> Tensor:
    """Return `W (I - P_r)`, what of the rows of W (..., out, d) retain does not use."""
    return weight - project(weight, retain, alpha_r)


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
    return float(((weight @ unit.to(weight.dtype)) * weight).sum())


def _working_dtype(moment: Tensor) -> torch.dtype:
    return torch.float64 if moment.shape[-1] <= _DOUBLE_UP_TO else moment.dtype


def _or_one(trace: Tensor) -> Tensor:
    return torch.where(trace > 0, trace, torch.ones_like(trace))
