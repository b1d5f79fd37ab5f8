"""The sweep over few images: what each point says, and the figure of all."""

from dataclasses import replace

import numpy as np
import pytest

from bandstop.bench.few_samples import Point, figure, svg, sweep, table
from bandstop.edit.images import DataSplits
from bandstop.edit.svd import SVD
from tests.networks import corners, trained

POINTS = [
    Point(kept, gone, original=0.9, retain=0.8, forget=0.1, worst=0.2, without_edit=0)
    for kept in (10, 30)
    for gone in (30, 900)
]


def data() -> DataSplits:
    model = trained()
    sets = (corners(200), corners(60, seed=5), corners(80, seed=9))
    return DataSplits(*sets, model.class_names, model.preprocess)


def test_every_pair_of_counts_is_measured_on_test_images() -> None:
    points = list(sweep(trained(), SVD(), (0, 2), data(), (5, 20), (4, 40)))
    assert [(p.retain_per_class, p.forget_images) for p in points] == [
        (5, 4),
        (5, 40),
        (20, 4),
        (20, 40),
    ]
    enough = points[-1]
    assert enough.without_edit == 0
    assert enough.forget <= enough.worst <= 0.05
    assert enough.retain >= enough.original - 0.05 >= 0.85


def test_a_class_that_cannot_be_forgotten_counts_as_it_was() -> None:
    # scalings so small that nothing changes cannot do better than the original
    nothing = replace(SVD(), alpha_r=(1e9,), alpha_f=(1e-9,))
    with_it = next(sweep(trained(), nothing, (1,), data(), (5,), (4,)))
    assert with_it.without_edit == 1
    assert with_it.retain == with_it.original
    assert with_it.forget >= 0.9


def test_the_figure_has_a_line_for_each_count_and_the_same_bytes_twice() -> None:
    left, right = figure(POINTS).axes
    assert [line.get_label() for line in left.lines] == [
        "10 a retained class",
        "30 a retained class",
    ]
    assert np.asarray(left.lines[0].get_ydata()) == pytest.approx([10.0, 10.0])
    assert len(right.lines) == 3  # and the original's
    assert svg(POINTS) == svg(POINTS)
    assert len(list(table(POINTS).columns)) == 6
