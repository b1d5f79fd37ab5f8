"""Retraining: the network that training gives where what is forgotten was never there."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from bandstop.edit import train as train_module
from bandstop.edit.accuracy import logits
from bandstop.edit.baselines.retrain import Retrain
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.edits import edited
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits
from bandstop.edit.journal import Journal
from bandstop.edit.method import split
from bandstop.edit.request import ForgetRequest
from bandstop.edit.train import recipe_for, train, without_classes
from bandstop.edit.training import Training
from tests.baseline_toys import CLASS, DATA, INSTANCES, black, forget, learnt, same, share, state

QUICK = Retrain(epochs=2, seed=3)


@pytest.mark.parametrize(
    ("request_", "data"),
    [
        (CLASS, without_classes(DATA, CLASS.classes)),
        (INSTANCES, replace(DATA, train=split(DATA, INSTANCES).retain)),
    ],
    ids=["class", "instances"],
)
def test_it_is_what_training_without_them_gives(request_: ForgetRequest, data: DataSplits) -> None:
    arch = learnt().arch
    fresh = train(arch, data, replace(recipe_for(arch, data), epochs=2), seed=3)
    got = edited(learnt(), forget(QUICK, request_)).network.state_dict()
    assert all(torch.equal(got[name], v) for name, v in fresh.network.state_dict().items())


@pytest.mark.parametrize("request_", [CLASS, INSTANCES], ids=["class", "instances"])
def test_it_never_looks_at_what_is_forgotten(request_: ForgetRequest) -> None:
    parts = split(DATA, request_)
    blind = forget(QUICK, request_, data=replace(parts, forget=black(parts.forget)))
    assert same(forget(QUICK, request_), blind)
    less = replace(parts, retain=black(parts.retain))
    assert not same(blind, forget(QUICK, request_, data=less))


def test_a_class_that_was_never_seen_is_not_recognised() -> None:
    edit = forget(Retrain(epochs=4))
    assert edit.found == {"epochs": 4}
    assert share(edit, DATA.test.of_classes((2,)), 2) == 0
    assert share(edit, DATA.test.of_classes((1,)), 1) == 1


@pytest.mark.parametrize("shift", ["inside", "apart"])
def test_the_edit_of_a_folded_network_has_its_names(shift: Literal["inside", "apart"]) -> None:
    folded = fold_batchnorm(learnt(), shift=shift)
    edit = QUICK(folded, CLASS, split(DATA, CLASS))
    plain = edited(learnt(), forget(QUICK))
    assert torch.allclose(
        logits(edited(folded, edit), DATA.test), logits(plain, DATA.test), atol=1e-4
    )


def test_an_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, epoch_ = Journal(tmp_path / "state", settings="of this run"), train_module._epoch_

    def killed(training: Training, *rest: object) -> None:
        if training.epoch == 1:
            raise KeyboardInterrupt
        epoch_(training, *rest)  # type: ignore[arg-type]  # as they came

    def counted(training: Training, *rest: object) -> None:
        done.append(training.epoch)
        epoch_(training, *rest)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(train_module, "_epoch_", killed)
    with pytest.raises(KeyboardInterrupt):
        forget(QUICK, journal=journal)
    done: list[int] = []
    monkeypatch.setattr(train_module, "_epoch_", counted)
    assert same(forget(QUICK, journal=journal), forget(QUICK))
    assert done == [1, 0, 1]  # it went on from the second epoch; the other run had both


def test_the_model_stays_and_its_weights_do_not_matter() -> None:
    before = state(learnt())
    other = learnt().replaced(copy.deepcopy(learnt().network))
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.add_(1)
    one = edited(learnt(), forget(QUICK))
    two = edited(other, QUICK(other, CLASS, split(DATA, CLASS)))
    assert torch.equal(logits(one, DATA.test), logits(two, DATA.test))
    assert all(torch.equal(value, before[name]) for name, value in learnt().state_dict().items())


def test_settings_and_data_that_nothing_can_be_trained_with_are_refused() -> None:
    with pytest.raises(InputError, match="retrain: epochs must be a number above 0, got 0"):
        Retrain(epochs=0)
    parts = split(DATA, CLASS)
    with pytest.raises(InputError, match="retrain: no images to retain"):
        forget(Retrain(), data=replace(parts, retain=parts.retain.of_classes(())))
