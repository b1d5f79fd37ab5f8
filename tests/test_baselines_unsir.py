"""UNSIR: noise that a class's loss is highest on, one epoch that impairs, one that repairs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.baselines.training import cross_entropy
from bandstop.edit.baselines.unsir import UNSIR, error_maximising
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.method import split
from tests.baseline_toys import (
    CLASS,
    DATA,
    INSTANCES,
    Killed,
    black,
    forget,
    learnt,
    resumed,
    same,
    state,
)

QUICK = UNSIR(
    noise_images=16, noise_steps=10, noise_passes=2, batch=32, impair_lr=0.01, repair_lr=0.01
)
IMPAIR = 5  # steps of its first epoch: 150 retained images, 26 of them beside 6 of noise


def normal(seed: int = 0) -> Tensor:
    return torch.randn((16, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


def pictures(steps: int, penalty: float = 0.1) -> Tensor:
    return error_maximising(learnt(), 2, normal(), steps=steps, lr=0.1, penalty=penalty)


def loss(image: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(learnt()(image), torch.full((len(image),), 2)))


def test_noise_raises_the_loss_of_its_class_and_leaves_the_network_alone() -> None:
    before = state(learnt())
    assert loss(pictures(steps=40)) > loss(pictures(steps=0)) + 1
    assert all(torch.equal(value, before[name]) for name, value in learnt().state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in learnt().parameters())


def test_noise_is_pictures_and_the_penalty_keeps_them_near_the_mean() -> None:
    mean = learnt().mean
    free, held = pictures(40, penalty=0.0), pictures(40, penalty=10.0)
    for noise in (free, held):
        assert float((noise - 0.5).abs().max()) <= 0.5 + 1e-6
    assert float((held - mean).square().mean()) < 0.1 * float((free - mean).square().mean())


def test_no_image_of_the_class_is_looked_at() -> None:
    parts = split(DATA, CLASS)
    blind = forget(QUICK, data=replace(parts, forget=black(parts.forget)))
    assert same(forget(QUICK), blind)
    assert not same(blind, forget(QUICK, data=replace(parts, retain=black(parts.retain))))


def test_noise_is_shown_as_each_forgotten_class_and_only_while_it_impairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[int]] = []

    def noted(student: Classifier, image: Tensor, label: Tensor) -> Tensor:
        seen.append(sorted(set(label.tolist())))
        return cross_entropy(student, image, label)

    monkeypatch.setattr("bandstop.edit.baselines.unsir.cross_entropy", noted)
    forget(QUICK)
    assert seen == [[0, 1, 2, 3]] * IMPAIR + [[0, 1, 3]] * (len(seen) - IMPAIR)
    assert len(seen) == IMPAIR + 150 // 32


@pytest.mark.parametrize("after", [2, IMPAIR - 1, IMPAIR, IMPAIR + 1])
def test_an_interrupted_run_ends_with_the_same_bytes(after: int, tmp_path: Path) -> None:
    assert same(resumed(QUICK, tmp_path / "state", after), forget(QUICK))


@pytest.mark.parametrize(
    ("steps", "rate", "since"), [(1, 0.01, 1), (IMPAIR, 0.01, IMPAIR), (IMPAIR + 1, 0.002, 1)]
)
def test_each_epoch_has_its_own_rate_and_an_optimiser_that_starts_anew(
    steps: int, rate: float, since: int, tmp_path: Path
) -> None:
    file = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        forget(replace(QUICK, repair_lr=0.002), journal=Killed(file, every=0.0, left=steps))
    optimizer = torch.load(file, weights_only=True)["optimizer"]
    assert optimizer["param_groups"][0]["lr"] == rate
    assert {int(moments["step"]) for moments in optimizer["state"].values()} == {since}


def test_instances_and_empty_data_are_refused() -> None:
    with pytest.raises(InputError, match=r"^unsir forgets classes, not instances$"):
        forget(QUICK, INSTANCES)
    parts = split(DATA, CLASS)
    with pytest.raises(InputError, match="unsir: no images to retain"):
        forget(QUICK, data=replace(parts, retain=parts.retain.of_classes(())))


@pytest.mark.parametrize("field", ["noise_images", "noise_steps", "impair_lr", "penalty"])
def test_settings_out_of_range_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"unsir: {field} must be a number"):
        replace(QUICK, **{field: -1})
