"""The alpha search against tables instead of networks."""

from bandstop.edit.search import Trial, search

ORIGINAL = Trial(0.0, 0.0, retain=0.9, forget=0.9, norm=0.0)


def test_best_score_wins_and_hopeless_points_are_not_tried() -> None:
    table = {
        (10.0, 1.0): (0.88, 0.50),
        (10.0, 3.0): (0.85, 0.02),  # score 0.833
        (10.0, 10.0): (0.80, 0.01),  # retain below 0.833: alpha_f stops here
        (30.0, 1.0): (0.89, 0.03),  # score 0.863, the best
        (30.0, 3.0): (0.86, 0.00),  # retain below 0.863
        (100.0, 1.0): (0.70, 0.70),
    }
    tried = []

    def evaluate(alpha_r: float, alpha_f: float) -> Trial:
        tried.append((alpha_r, alpha_f))
        return Trial(alpha_r, alpha_f, *table[alpha_r, alpha_f], norm=1.0)

    best, trials = search((10.0, 30.0, 100.0), (10.0, 1.0, 3.0), evaluate, ORIGINAL)
    assert (best.alpha_r, best.alpha_f) == (30.0, 1.0)
    assert tried == list(table)
    assert [(t.alpha_r, t.alpha_f) for t in trials] == tried


def test_forgotten_class_ends_the_row() -> None:
    def evaluate(alpha_r: float, alpha_f: float) -> Trial:
        return Trial(alpha_r, alpha_f, retain=0.9, forget=0.32 / alpha_f, norm=alpha_f)

    _, trials = search((10.0,), (1.0, 3.0, 10.0, 30.0), evaluate, ORIGINAL, forgotten=0.1)
    assert [t.alpha_f for t in trials] == [1.0, 3.0, 10.0]


def test_a_grid_that_only_does_worse_returns_the_original() -> None:
    best, _ = search((10.0, 30.0), (1.0,), lambda r, f: Trial(r, f, 0.05, 0.0, norm=1.0), ORIGINAL)
    assert best is ORIGINAL


def test_ties_go_to_the_smaller_change() -> None:
    def evaluate(alpha_r: float, alpha_f: float) -> Trial:
        return Trial(alpha_r, alpha_f, 0.9, 0.0, norm=alpha_r)

    best, _ = search((30.0, 10.0), (3.0, 1.0), evaluate, ORIGINAL)
    assert (best.alpha_r, best.alpha_f) == (10.0, 1.0)


def test_forget_scalings_far_below_the_retain_scaling_are_left_out() -> None:
    def evaluate(alpha_r: float, alpha_f: float) -> Trial:
        return Trial(alpha_r, alpha_f, 0.9, 0.1, norm=1.0)

    _, trials = search((1000.0, 10.0), (1.0, 3.0), evaluate, ORIGINAL)
    assert [(t.alpha_r, t.alpha_f) for t in trials] == [(1000.0, 3.0), (10.0, 1.0), (10.0, 3.0)]
