"""SCRUB: which steps lead away from the teacher, and what is left of it without them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from bandstop.edit.accuracy import logits
from bandstop.edit.baselines.fine_tune import FineTune
from bandstop.edit.baselines.scrub import SCRUB, turn
from bandstop.edit.baselines.training import answers, divergence
from bandstop.edit.edits import edited
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.method import split
from tests.baseline_toys import CLASS, DATA, black, forget, learnt, same, share
from tests.networks import tiny

TOY = SCRUB(epochs=6, batch=32, forget_batch=16, lr=0.01)


@pytest.mark.parametrize(
    ("passes", "steps"),
    [
        (0, "b0 b1 b2 b3 b4 b5"),
        (1, "a0 a1 b0 b1 b2 b3 b4 b5"),
        (2, "a0 a1 b0 b1 b2 a2 a3 b3 b4 b5"),
    ],
)
def test_epochs_begin_with_a_pass_away_as_often_as_asked(passes: int, steps: str) -> None:
    turns = [turn(step, passes, away=2, back=3) for step in range(6 + 2 * passes)]
    assert " ".join(f"{'a' if away else 'b'}{number}" for away, number in turns) == steps


@pytest.mark.parametrize(("max_epochs", "steps"), [(0, 12), (1, 15), (2, 18), (9, 18)])
def test_a_run_has_all_its_passes(max_epochs: int, steps: int) -> None:
    # 150 retained images are 6 batches of 25, 50 forgotten ones 3 of 16
    edit = forget(replace(TOY, max_epochs=max_epochs, epochs=2, batch=25))
    assert edit.found == {"steps": steps}


def test_without_teacher_it_is_fine_tuning_bit_for_bit() -> None:
    plain = SCRUB(max_epochs=0, epochs=2, batch=32, gamma=1.0, alpha=0.0, lr=0.02, seed=4)
    tuned = FineTune(epochs=2, batch=32, lr=0.02, seed=4)
    assert same(forget(plain), forget(tuned))
    assert not same(forget(replace(plain, alpha=0.1)), forget(tuned))


def test_labels_of_the_forgotten_are_not_read() -> None:
    parts = split(DATA, CLASS)
    other = replace(parts, forget=replace(parts.forget, labels=parts.forget.labels * 0))
    setting = replace(TOY, epochs=2)
    assert same(forget(setting), forget(setting, data=other))
    unseen = replace(parts, forget=black(parts.forget))
    assert not same(forget(setting), forget(setting, data=unseen))


def apart(setting: SCRUB, images: ImageSet) -> float:
    """Return how far the edited network's answers are from the teacher's."""
    after = logits(edited(learnt(), forget(setting)), images)
    return float(divergence(after, logits(learnt(), images)))


def test_it_leaves_the_teacher_on_the_forgotten_and_follows_it_elsewhere() -> None:
    gone, kept = (
        apart(TOY, part) for part in (DATA.test.of_classes((2,)), split(DATA, CLASS).retain)
    )
    assert gone > 5 * kept
    assert gone > 3 * apart(replace(TOY, max_epochs=0), DATA.test.of_classes((2,)))


def test_the_teacher_holds_the_answers_of_what_stays() -> None:
    retain = split(DATA, CLASS).retain
    strict, loose = (replace(TOY, gamma=1e-3, alpha=a) for a in (1.0, 0.0))
    assert apart(strict, retain) < 0.5 * apart(loose, retain)


def test_it_forgets_the_class_and_keeps_the_others() -> None:
    edit = forget(TOY)
    assert share(edit, DATA.test.of_classes((2,)), 2) == 0
    assert min(share(edit, DATA.test.of_classes((c,)), c) for c in (0, 1, 3)) >= 0.9


def test_where_the_student_is_the_teacher_the_divergence_has_no_slope() -> None:
    model = tiny(norm=False)
    image, _ = next(DATA.test.batches(8))
    with torch.no_grad():
        target = answers(model, image)
    value = divergence(answers(model, image), target, temperature=4.0)
    slopes = torch.autograd.grad(value, list(model.network.parameters()))
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": -1}, "scrub: max_epochs must be a number from 0"),
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"gamma": 0.0, "alpha": -1.0}, "gamma must .*; alpha must"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SCRUB(), **settings)
