"""Images made from the network alone: as wanted, like the training data to BatchNorm, useful."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from bandstop.edit.accuracy import accuracy, forget_and_retain, logits
from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.synthesise import (
    Synthesis,
    _jittered,
    _noise,
    objective,
    remembered_gaps,
    synthesise,
    synthesised_data,
)
from bandstop.edit.train import Recipe, train
from bandstop.edit.unlearn import every_class, unlearn
from bandstop.edit.wf_net import WFNet
from tests.networks import classifier, noise, tiny

ARCH = Arch("bandstop:resnet", {"width": 16, "blocks": "1-1"})
DIGITS = load_data("digits")
FOUR = range(4)
DATA = DataSplits(
    DIGITS.train.of_classes(FOUR),
    DIGITS.validate.of_classes(FOUR),
    DIGITS.test.of_classes(FOUR),
    ("0", "1", "2", "3"),
    DIGITS.preprocess,
)
SETTING = Synthesis(per_class=50, steps=40, batch=100)


@pytest.fixture(scope="module")
def base() -> Classifier:
    recipe = Recipe(epochs=8, batch=32, lr=0.1, shift=1, flip=False)
    model = train(ARCH, DATA, recipe, seed=0)
    model.zero_grad()
    return model


@pytest.fixture(scope="module")
def made(base: Classifier) -> ImageSet:
    return synthesise(base, SETTING)


def pixels(images: ImageSet) -> torch.Tensor:
    return images.images[images.index]


def test_the_network_sees_what_was_wanted(base: Classifier, made: ImageSet) -> None:
    assert pixels(made).shape == (200, 1, 8, 8)
    assert pixels(made).dtype == torch.uint8
    assert made.labels.bincount().tolist() == [50] * 4
    assert accuracy(logits(base, made).argmax(1), made.labels) > 0.95


def gaps(model: Classifier, image: torch.Tensor) -> list[float]:
    with remembered_gaps(model) as found, torch.no_grad():
        model(image)
    return [float(gap) for gap in found]


def test_batchnorm_sees_what_it_remembers(base: Classifier, made: ImageSet) -> None:
    start = _noise(base, 200, SETTING.smooth, torch.Generator().manual_seed(0))
    before, after = gaps(base, start), gaps(base, pixels(made) / 255)
    assert len(before) == 6
    assert all(new < old / 4 for new, old in zip(after, before, strict=True))


def test_a_gap_is_in_units_of_the_remembered_deviation() -> None:
    norm = nn.BatchNorm2d(2)
    norm.running_mean, norm.running_var = torch.tensor([1.0, 0.0]), torch.tensor([4.0, 1.0])
    model = classifier(nn.Sequential(norm, nn.Flatten(), nn.Linear(128, 4)), channels=2)
    x = noise(50, 2, 8, 8)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    x = x * torch.tensor([6.0, 1.0])[:, None, None] + torch.tensor([5.0, 0.0])[:, None, None]
    with remembered_gaps(model) as found:
        model.network(x)
    # channel 0 is (5 - 1) / 2 = 2 off in its mean and 6 / 2 - 1 = 2 in its deviation
    assert float(found[0]) == pytest.approx((2**2 + 2**2) / 2, rel=1e-4)


def test_the_same_seed_gives_the_same_bytes(base: Classifier) -> None:
    quick = replace(SETTING, per_class=5, steps=5)
    torch.manual_seed(1)
    one = synthesise(base, quick)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two, other = synthesise(base, quick), synthesise(base, replace(quick, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pixels(one), pixels(two))
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(pixels(one), pixels(other))


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_bit_for_bit(base: Classifier, training: bool) -> None:
    before = {name: value.clone() for name, value in base.state_dict().items()}
    base.train(training)
    synthesise(base, replace(SETTING, per_class=2, steps=2))
    assert base.training == base.network.training == training
    base.eval()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in base.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.modules())


def test_without_batchnorm_the_classes_are_all_there_is(
    base: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    folded = fold_batchnorm(base)
    with caplog.at_level(logging.WARNING):
        made = synthesise(folded, replace(SETTING, per_class=10))
    assert "no BatchNorm" in caplog.text
    assert accuracy(logits(folded, made).argmax(1), made.labels) > 0.95


def test_too_few_steps_are_told(base: Classifier, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        synthesise(base, replace(SETTING, per_class=10, steps=1, lr=1e-6))
    assert "raise steps" in caplog.text


def test_wf_net_trained_on_them_forgets_real_digits(base: Classifier) -> None:
    data = synthesised_data(base, SETTING)
    assert not set(data.train.index.tolist()) & set(data.validate.index.tolist())
    folded, edit = unlearn(base, WFNet(steps=150, batch=64), every_class(base), data)
    assert isinstance(edit, GateEdit)
    rates = []
    for c in FOUR:
        row = fold_batchnorm(
            Classifier(build(ARCH, 4, 1, (8, 8)), ARCH, DATA.preprocess, tuple("0123"))
        )
        row.network.load_state_dict(fold(folded.network.state_dict(), edit, [c]))
        answers = logits(row, DATA.test).argmax(1)
        rates.append(forget_and_retain(answers, DATA.test.labels, [c]))
    assert sum(forget for forget, _ in rates) / 4 <= 0.05
    assert sum(retain for _, retain in rates) / 4 >= 0.85


def test_each_term_of_the_objective() -> None:
    model = classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)))
    nn.init.zeros_(model.network[1].weight)  # type: ignore[index]  # a Sequential
    x = torch.zeros(2, 1, 8, 8)
    x[..., ::2] = 2.0  # columns of 2 and 0, so that neighbours differ by 2 across, not down
    image, label = x * 0.25 + 0.5, torch.tensor([0, 3])
    only = replace(SETTING, statistics=0, variation=0, norm=0)
    chance = torch.tensor(4.0).log().item()
    for setting, gap, expected in (
        (only, [], 0),
        (replace(only, variation=0.5), [], 0.5 * 4),
        (replace(only, norm=0.5), [], 0.5 * 2),
        (replace(only, statistics=0.5), [torch.tensor(1.0), torch.tensor(3.0)], 0.5 * 2),
    ):
        loss = objective(model, image, label, setting, gap).item()
        assert loss == pytest.approx(chance + expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shift", "flip", "places"),
    [(0, False, 1), (0, True, 2), (1, False, 9), (None, False, 9), (1, True, 18), (1, None, 9)],
)
def test_a_batch_is_moved_and_mirrored_together(
    shift: int | None, flip: bool | None, places: int
) -> None:
    image = torch.zeros(3, 1, 9, 9)
    image[:, :, 4, 2] = 1
    generator, setting = torch.Generator().manual_seed(0), Synthesis(shift=shift, flip=flip)
    seen = set()
    for _ in range(300):
        where = _jittered(image, setting, generator).nonzero()
        assert len({(int(r), int(c)) for _, _, r, c in where}) == 1
        seen.add((int(where[0, 2]), int(where[0, 3])))
    assert len(seen) == places


def test_a_network_that_answers_nan_is_an_error_and_no_images() -> None:
    broken = tiny()
    nn.init.constant_(broken.network.fc.bias, float("nan"))  # type: ignore[union-attr, arg-type]  # a TinyNet
    with pytest.raises(DivergedError, match="loss is nan at step 0; lower lr"):
        synthesise(broken, SETTING)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"per_class": 0}, "per_class >= 1"),
        ({"steps": 0}, "steps >= 1"),
        ({"batch": 1}, "batch >= 2"),
        ({"lr": 0.0}, "lr > 0"),
        ({"statistics": -1.0, "smooth": 0}, "weights >= 0, smooth >= 1"),
        ({"variation": float("nan")}, "weights >= 0"),
        ({"shift": -1}, "shift >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, float], rule: str) -> None:
    with pytest.raises(InputError, match=f"expected {rule}, got"):
        replace(SETTING, **given)  # type: ignore[arg-type]  # out of range, not of type
