"""Climbing the loss on what is to be forgotten: when it stops, and what it is without it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from bandstop.edit.accuracy import logits
from bandstop.edit.baselines.fine_tune import FineTune
from bandstop.edit.baselines.neg_grad import NegGrad
from bandstop.edit.baselines.neg_grad_plus import NegGradPlus
from bandstop.edit.edits import WeightEdit, edited
from bandstop.edit.errors import InputError
from bandstop.edit.method import split
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import CLASS, DATA, INSTANCES, black, forget, learnt, same, share
from tests.networks import tiny

PLUS = NegGradPlus(alpha=0.8, epochs=10, batch=32, forget_batch=16, lr=0.02)


def loss(edit: WeightEdit) -> float:
    """Return the mean cross-entropy of what was to be forgotten, under the edit."""
    images = split(DATA, CLASS).forget
    answers = logits(edited(learnt(), edit), images)
    return float(torch.nn.functional.cross_entropy(answers, images.labels))


def test_the_ascent_ends_as_soon_as_nothing_is_recognised() -> None:
    setting, images = (
        NegGrad(epochs=50, batch=50, lr=0.01, check_every=1),
        split(DATA, CLASS).forget,
    )
    edit = forget(setting)
    steps = edit.found["steps"]
    assert isinstance(steps, int)
    assert 1 < steps < 50
    assert share(edit, images, 2) == 0
    assert share(forget(replace(setting, epochs=steps - 1)), images, 2) > 0
    assert forget(replace(setting, check_every=60)).found == {"steps": 50}


def test_plain_ascent_reads_no_retained_image() -> None:
    parts, setting = split(DATA, CLASS), NegGrad(epochs=1, batch=16)
    assert same(forget(setting), forget(setting, data=replace(parts, retain=black(parts.retain))))


@pytest.mark.parametrize("request_", [CLASS, INSTANCES], ids=["class", "instances"])
def test_without_ascent_it_is_fine_tuning_bit_for_bit(request_: ForgetRequest) -> None:
    tuned = FineTune(epochs=2, batch=32, lr=0.02, seed=4)
    plus = NegGradPlus(alpha=1.0, epochs=2, batch=32, lr=0.02, seed=4)
    assert same(forget(plus, request_), forget(tuned, request_))
    assert not same(forget(replace(plus, alpha=0.9), request_), forget(tuned, request_))


def test_above_the_ceiling_an_image_is_climbed_no_further() -> None:
    # without BatchNorm the forgotten images do not touch the others, and so nothing is left of
    # them; half the weight is half the rate
    model, parts = tiny(norm=False), split(DATA, CLASS)
    plus = replace(PLUS, alpha=0.5, ceiling=1e-6, epochs=1, lr=0.02, weight_decay=0.0)
    ours = plus(model, CLASS, parts)
    tuned = FineTune(epochs=1, batch=32, lr=0.01, weight_decay=0.0)(model, CLASS, parts)
    assert ours.weights.keys() == tuned.weights.keys()
    for name, value in ours.weights.items():
        torch.testing.assert_close(value, tuned.weights[name], rtol=1e-4, atol=1e-6)
    climbed = replace(plus, ceiling=None)(model, CLASS, parts)
    assert not torch.allclose(climbed.weights["fc.bias"], tuned.weights["fc.bias"], atol=1e-4)


def test_the_ceiling_bounds_how_far_it_climbs() -> None:
    setting = replace(PLUS, alpha=0.7)
    low, high = (loss(forget(replace(setting, ceiling=c))) for c in (1.0, None))
    assert low < 0.5 * high
    assert low > 1  # the loss of a learnt image is near 0


def test_it_forgets_the_class_and_keeps_the_others() -> None:
    edit, rest = forget(PLUS), DATA.test.without_classes((2,))
    assert share(edit, DATA.test.of_classes((2,)), 2) == 0
    right = [share(edit, rest.of_classes((c,)), c) for c in (0, 1, 3)]
    assert min(right) >= 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.1}, "neg-grad-plus: alpha must be at most 1, got 1.1"),
        ({"alpha": -0.1}, "alpha must be a number from 0"),
        ({"ceiling": 0.0}, "ceiling must be a number above 0"),
        ({"forget_batch": 0, "lr": 0.0}, "forget_batch must .*; lr must"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(NegGradPlus(), **settings)
