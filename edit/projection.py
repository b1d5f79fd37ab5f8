"""Scaled projections onto the space that a set of activations spans, without any decomposition.

The paper (arXiv 2312.00761) takes the SVD of the activations, keeps the basis U and scales basis
vector i by `alpha s_i / ((alpha - 1) s_i + 1)` (eq. 2), s being the normalised energies. That is a
rational function of the second moment C with trace 1:

    P(alpha) = alpha C (I + (alpha - 1) C)^-1

so one Cholesky factor a side takes the place of the SVD, exactly.
"""

import torch
from torch import Tensor


def normalised(moment: Tensor) -> Tensor:
    """Return second moments (..., d, d) with trace 1; a zero moment stays zero."""
    trace = moment.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return torch.where(trace > 0, moment / trace.clamp_min(torch.finfo(moment.dtype).tiny), moment)


def factor(unit_moment: Tensor, alpha: float) -> Tensor:
    """Return the Cholesky factor of `I + (alpha - 1) C` (condition at most max(alpha, 1/alpha)).

    Args:
        unit_moment: C, (..., d, d) with trace 1.
        alpha: scaling, > 0.
    """
    eye = torch.eye(unit_moment.shape[-1], dtype=unit_moment.dtype, device=unit_moment.device)
    lower: Tensor = torch.linalg.cholesky(eye + (alpha - 1) * unit_moment)
    return lower


def project(x: Tensor, unit_moment: Tensor, alpha: float, cholesky: Tensor | None = None) -> Tensor:
    """Return `x P(alpha)`, the rows of x (..., out, d) projected onto the scaled space of C.

    Args:
        x: rows.
        unit_moment: C, (..., d, d) with trace 1.
        alpha: 0 gives zero; 1 gives x C; towards infinity the plain projector onto C's range.
        cholesky: `factor(unit_moment, alpha)` where the caller has it already.
    """
    if alpha == 0:
        return torch.zeros_like(x)
    lower = factor(unit_moment, alpha) if cholesky is None else cholesky
    return torch.cholesky_solve(alpha * (x @ unit_moment).mT, lower).mT


def not_shared(weight: Tensor, retain: Tensor, alpha_r: float) -> Tensor:
    """Return `W (I - P_r)`, what of the rows of W (..., out, d) retain does not use."""
    return weight - project(weight, retain, alpha_r)


def without_forget_space(
    weight: Tensor,
    retain: Tensor,
    forget: Tensor,
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
        retain: normalised second moment of the retain activations, (..., d, d).
        forget: the same of the forget activations.
        alpha_r: scaling of the retain space.
        alpha_f: scaling of the forget space.
        rest: `not_shared(weight, retain, alpha_r)` where the caller has it already.
        cholesky: `factor(forget, alpha_f)` where the caller has it already.
    """
    rest = not_shared(weight, retain, alpha_r) if rest is None else rest
    return weight - project(rest, forget, alpha_f, cholesky)
