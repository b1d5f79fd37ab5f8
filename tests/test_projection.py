"""The closed form against the paper's way (SVD) and worked examples; tolerances in float64."""

import pytest
import torch
from torch import Tensor

from bandstop.edit.projection import (
    DOUBLE_UP_TO,
    Rows,
    energy,
    factor,
    normalise_,
    normalised,
    project,
    without_forget_space,
)

ALPHAS = (0.25, 1.0, 3.0, 100.0, 1000.0)


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(activations: Tensor) -> Tensor:
    return normalised(activations.T @ activations)


def projector(activations: Tensor, alpha: float) -> Tensor:
    eye = torch.eye(activations.shape[1], dtype=torch.float64)
    return project(eye, unit(activations), alpha)


def projector_by_svd(activations: Tensor, alpha: float) -> Tensor:
    """The paper's algorithm as it is written: SVD, scale each basis vector, multiply back."""
    u, sigma, _ = torch.linalg.svd(activations.T, full_matrices=False)
    share = sigma**2 / (sigma**2).sum()
    p: Tensor = u @ torch.diag(alpha * share / ((alpha - 1) * share + 1)) @ u.T
    return p


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (1, 5)])
def test_closed_form_equals_svd(alpha: float, shape: tuple[int, int]) -> None:
    a = rows(*shape)
    torch.testing.assert_close(projector(a, alpha), projector_by_svd(a, alpha), rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_projector_is_symmetric_with_eigenvalues_in_unit_interval(alpha: float) -> None:
    p = projector(rows(30, 8), alpha)
    torch.testing.assert_close(p, p.T, rtol=0, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(p)
    assert eigenvalues.min() >= -1e-12
    assert eigenvalues.max() <= 1 + 1e-12


@pytest.mark.parametrize(
    ("diagonal", "alpha", "expected"),
    [
        ([3.0, 1.0], 3.0, [0.9, 0.5]),
        ([1.0] * 4, 3.0, [0.5] * 4),
        ([1.0] * 4, 100.0, [0.9708737864] * 4),
        ([1.0] * 8, 1000.0, [0.9930486594] * 8),
        ([3.0, 1.0], 1.0, [0.75, 0.25]),
        ([0.0] * 3, 10.0, [0.0] * 3),
    ],
)
def test_projector_of_known_moments(
    diagonal: list[float], alpha: float, expected: list[float]
) -> None:
    moment, wanted = (
        torch.diag(torch.tensor(x, dtype=torch.float64)) for x in (diagonal, expected)
    )
    p = project(torch.eye(len(diagonal), dtype=torch.float64), normalised(moment), alpha)
    torch.testing.assert_close(p, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_sample_gives_its_plain_projector(alpha: float) -> None:
    a = rows(1, 5)
    torch.testing.assert_close(projector(a, alpha), a.T @ a / a.square().sum(), rtol=0, atol=1e-12)


def test_projector_does_not_depend_on_order_scale_or_repetition() -> None:
    a = rows(20, 6)
    p = projector(a, 30.0)
    for other in (a.flip(0), a * -7.5, torch.cat([a, a])):
        torch.testing.assert_close(projector(other, 30.0), p, rtol=0, atol=1e-12)


def test_projector_turns_with_the_activations() -> None:
    a = rows(20, 6)
    q = torch.linalg.qr(rows(6, 6, seed=1)).Q
    torch.testing.assert_close(
        projector(a @ q.T, 30.0), q @ projector(a, 30.0) @ q.T, rtol=0, atol=1e-12
    )


def test_moments_of_disjoint_rows_add_and_subtract() -> None:
    one, two = rows(20, 6), rows(15, 6, seed=1)
    total = one.T @ one + two.T @ two
    left = project(torch.eye(6).double(), normalised(total - one.T @ one), 30.0)
    torch.testing.assert_close(left, projector(two, 30.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "retain", "forget", "alpha_r", "expected"),
    [  # the second columns tell the right transpose from the wrong one: [2, 1] and [1.7, 2.5]
        ([[2.0, 4.0]], [[1.0, 0.0]], [[1.0, 1.0]], 3.0, [[0.0, 2.0]]),
        (
            [[2.0, 4.0], [1.0, -1.0]],
            [[3**0.5, 0.0], [0.0, 1.0]],
            [[1.0, 1.0]],
            3.0,
            [[0.9, 2.9], [1.2, -0.8]],
        ),
    ],
)
def test_worked_edits_that_do_not_commute(
    weight: list[list[float]],
    retain: list[list[float]],
    forget: list[list[float]],
    alpha_r: float,
    expected: list[list[float]],
) -> None:
    w, r, f = (torch.tensor(x, dtype=torch.float64) for x in (weight, retain, forget))
    edited = without_forget_space(w, unit(r), unit(f), alpha_r, 5.0)
    torch.testing.assert_close(
        edited, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_alpha_f_zero_leaves_the_weight_bit_for_bit() -> None:
    w = rows(3, 6)
    assert torch.equal(without_forget_space(w, unit(rows(9, 6)), unit(rows(9, 6)), 10.0, 0.0), w)


def test_alpha_r_zero_removes_the_whole_forget_space() -> None:
    w, f = rows(3, 6), rows(9, 6, seed=2)
    edited = without_forget_space(w, unit(rows(9, 6)), unit(f), 0.0, 10.0)
    torch.testing.assert_close(edited, w - w @ projector(f, 10.0), rtol=0, atol=1e-12)


def test_orthogonal_spaces_lose_only_the_forget_direction() -> None:
    w = rows(3, 2)
    e1, e2 = torch.eye(2, dtype=torch.float64).split(1)
    edited = without_forget_space(w, unit(e1), unit(e2), 1e9, 1e9)
    assert torch.equal(edited[:, 0], w[:, 0])
    torch.testing.assert_close(edited[:, 1], torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_same_data_on_both_sides_changes_less_and_less() -> None:
    w, a = torch.eye(6, dtype=torch.float64), rows(40, 6)
    norms = [
        float((without_forget_space(w, unit(a), unit(a), x, x) - w).norm()) for x in (1e2, 1e4, 1e6)
    ]
    assert norms[0] > 10 * norms[1] > 100 * norms[2]


def test_forget_rows_are_mapped_onto_what_retain_shares() -> None:
    w, r, f = rows(3, 8), rows(4, 8), rows(3, 8, seed=1)
    edited = without_forget_space(w, unit(r), unit(f), 30.0, 1e12)
    # conditioning limits the plain projector: 6e-5 was seen for alpha_f = 1e12
    torch.testing.assert_close(f @ edited.T, f @ projector(r, 30.0) @ w.T, rtol=0, atol=1e-3)


def test_factor_is_reused_without_change() -> None:
    w, c = rows(3, 6), unit(rows(9, 6))
    assert torch.equal(project(w, c, 30.0, factor(c, 30.0)), project(w, c, 30.0))


def test_trace_is_at_most_the_rank_and_exactly_one_for_alpha_one() -> None:
    a = rows(5, 9)
    assert float(projector(a, 1e6).trace()) <= 5 + 1e-9
    assert float(projector(a, 1.0).trace()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("count", [7, 1])
def test_few_rows_give_the_same_projector_as_their_moment(alpha: float, count: int) -> None:
    a = rows(count, 30)
    few = Rows(a[None].clone())
    normalise_(few)
    p = project(torch.eye(30, dtype=torch.float64)[None], few, alpha)[0]
    torch.testing.assert_close(p, projector(a, alpha), rtol=0, atol=1e-12)


def test_rows_of_zeros_span_nothing() -> None:
    few = Rows(torch.zeros(1, 3, 8))
    normalise_(few)
    assert not project(torch.ones(1, 2, 8), few, 30.0).any()


def test_energy_is_the_mean_squared_output() -> None:
    w, a = rows(3, 8), rows(5, 8, seed=1)
    few = Rows(a[None].clone())
    normalise_(few)
    want = float((a @ w.T).square().sum() / a.square().sum())
    assert energy(w, unit(a)) == pytest.approx(want, rel=1e-12)
    assert energy(w, few) == pytest.approx(want, rel=1e-12)


def test_a_large_float32_moment_is_solved_as_well_as_float32_allows() -> None:
    d = 2100
    a, w = rows(400, d).float(), rows(4, d, seed=1)
    c = unit(a)
    got = project(w.float(), c, 100.0)
    few = Rows(a[None].double())
    normalise_(few)
    want = project(w, few, 100.0)[0]
    assert float((got.double() - want).norm() / want.norm()) <= 5e-5


@pytest.mark.parametrize(
    ("alpha_r", "alpha_f"), [(100.0, 3.0), (1000.0, 30.0), (1.0, 1.0), (0.25, 1.4), (1.6, 0.4)]
)
@pytest.mark.parametrize(("d", "limit"), [(300, 1e-9), (2100, 1e-4)])
def test_an_edit_is_as_exact_as_its_numbers(
    d: int, limit: float, alpha_r: float, alpha_f: float
) -> None:
    """Relative to the change, against float64 by inversion; large layers stay in float32."""
    dtype = torch.float32 if d > DOUBLE_UP_TO else torch.float64
    fade = torch.arange(1, d + 1).double() ** -0.7
    r, f, w = unit(rows(900, d) * fade), unit(rows(900, d, seed=1) * fade.roll(5)), rows(6, d)
    rest = w - _by_inversion(w, r, alpha_r)
    want = _by_inversion(rest, f, alpha_f)
    sides = (w.to(dtype), r.to(dtype), f.to(dtype))
    got = w - without_forget_space(*sides, alpha_r, alpha_f).double()
    assert float((got - want).norm()) <= limit * float(want.norm())


def _by_inversion(x: Tensor, c: Tensor, alpha: float) -> Tensor:
    shifted = torch.eye(len(c), dtype=torch.float64) + (alpha - 1) * c
    solved: Tensor = torch.linalg.solve(shifted, alpha * (x @ c).T).T
    return solved


def test_a_factor_leaves_its_moment_alone() -> None:
    c = unit(rows(9, 6))
    before = c.clone()
    lower = factor(c, 30.0)
    assert torch.equal(c, before)
    eye = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(lower @ lower.T, eye + 29 * c, rtol=0, atol=1e-12)
    assert not lower.triu(1).any()


def test_a_retain_space_of_everything_protects_everything() -> None:
    w, eye = rows(3, 6), torch.eye(6, dtype=torch.float64)
    edited = without_forget_space(w, unit(eye), unit(rows(9, 6)), 1e12, 30.0)
    torch.testing.assert_close(edited, w, rtol=0, atol=1e-9)


def test_a_packed_projection_is_edited_like_its_parts() -> None:
    packed, r, f = rows(12, 6), unit(rows(9, 6, seed=1)), unit(rows(9, 6, seed=2))
    parts = [without_forget_space(w, r, f, 30.0, 3.0) for w in packed.chunk(3)]
    whole = without_forget_space(packed, r, f, 30.0, 3.0)
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-12)
