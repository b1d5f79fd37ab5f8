"""A training of WF-Net's masks that is stopped and goes on ends with the same bytes."""

import io
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import multiprocessing

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.journal import Journal, State, read_state, write_state
from bandstop.edit.method import Splits
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet
from tests.networks import corners, trained

# 193 images: an epoch is three batches, and one image that is left out
QUICK = WFNet(steps=14, batch=64, validate_every=4)
OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "schedule": "constant", "lr": 1.0, "warm": 0.0},
    "sgd, one cycle": {"optimizer": "sgd", "lr": 1.0},
    "sets": {"set_size": 2},
    "adapt": {"bn": "adapt"},
    "patience": {
        "patience": 1,
        "validate_every": 1,
        "lr": 6.0,
        "bound": 6.0,
        "schedule": "constant",
    },
}


def splits() -> Splits:
    return Splits(corners(193), corners(193).of_classes([]), corners(60, seed=5))


@cache
def prepared(bn: Literal["fold", "adapt"]) -> Classifier:
    return WFNet(bn=bn).prepare(trained())


def run(setting: WFNet, journal: Journal | None = None) -> GateEdit:
    model = prepared("adapt" if setting.bn == "adapt" else "fold")
    return setting(model, every_class(model), splits(), journal)


class Stops(Journal):
    """Ends the run as Ctrl-C does when it is asked to note for the `after`-th time."""

    def __init__(self, file: Path, after: int, every: float = 0.0) -> None:
        super().__init__(file, "settings", every=every)
        self.left = after

    def note_(self, state: Callable[[], State]) -> None:
        super().note_(state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def assert_same(one: GateEdit, two: GateEdit) -> None:
    assert one.found == two.found
    for ours, theirs in ((one.masks, two.masks), (one.statistics, two.statistics)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_stopped_again_and_again_ends_with_the_same_bytes(
    option: str, tmp_path: Path
) -> None:
    setting = replace(QUICK, **OPTIONS[option])
    after = 1 if option == "patience" else 4
    whole, stops = run(setting), 0
    while True:
        try:
            edit = run(setting, Stops(tmp_path / "state", after=after))
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 2
    assert_same(edit, whole)


@pytest.mark.parametrize("step", [1, 3, 4, 13, 14])
def test_it_may_stop_after_any_step(step: int, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(QUICK, Stops(tmp_path / "state", after=step))
    assert read_state(tmp_path / "state", "settings")["step"] == step
    assert_same(run(QUICK, Journal(tmp_path / "state", "settings")), run(QUICK))


def test_steps_after_the_last_note_are_made_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(QUICK, Stops(tmp_path / "state", after=9, every=1e9))
    assert read_state(tmp_path / "state", "settings")["step"] == 1
    assert_same(run(QUICK, Journal(tmp_path / "state", "settings")), run(QUICK))


def test_patience_that_had_run_out_has_still_run_out(tmp_path: Path) -> None:
    setting = replace(QUICK, **OPTIONS["patience"])
    whole = run(setting)
    losses = whole.found["validation_losses"]
    assert isinstance(losses, list)
    assert len(losses) < setting.steps
    with pytest.raises(KeyboardInterrupt):
        run(setting, Stops(tmp_path / "state", after=len(losses)))
    assert_same(run(setting, Journal(tmp_path / "state", "settings")), whole)


def work(model: Classifier, file: Path, threads: int) -> None:
    torch.set_num_threads(threads)  # the order of sums
    LONGER(model, every_class(model), splits(), Journal(file, "settings", every=0.0))


LONGER = replace(QUICK, steps=100)


def test_a_process_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    model, file = prepared("fold"), tmp_path / "state"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=work, args=(model, file, torch.get_num_threads()))
    process.start()
    while process.is_alive() and not file.exists():
        process.join(0.05)
    process.join(0.1)
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert 1 <= read_state(file, "settings")["step"] < LONGER.steps
    edit = LONGER(model, every_class(model), splits(), Journal(file, "settings"))
    assert_same(edit, LONGER(model, every_class(model), splits()))


def test_a_journal_changes_nothing(tmp_path: Path) -> None:
    assert_same(run(QUICK, Journal(tmp_path / "state", "settings", every=0.0)), run(QUICK))


def test_the_state_of_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(QUICK, Stops(tmp_path / "state", after=2))
    with pytest.raises(InputError, match="run with other settings or data"):
        run(QUICK, Journal(tmp_path / "state", "other settings"))


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {key: value for key, value in state.items() if key != name}


DAMAGE: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    **{f"no {name}": without(name) for name in ("alphas", "optimizer", "order", "best", "step")},
    "alphas of a channel less": lambda state: (
        state | {"alphas": {n: alpha[:, 1:] for n, alpha in state["alphas"].items()}}
    ),
    "a mask less": lambda state: state | {"alphas": dict(list(state["alphas"].items())[1:])},
    "unknown statistics": lambda state: state | {"statistics": {"bn9.running_mean": torch.ones(8)}},
    "a generator of numbers": lambda state: state | {"generator": torch.zeros(3)},
    "step is a word": lambda state: state | {"step": "three"},
    "best is a list": lambda state: state | {"best": [1, 2]},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_state_that_does_not_fit_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        run(QUICK, Stops(file, after=2))
    write_state(file, "settings", DAMAGE[damage](dict(read_state(file, "settings"))))
    with pytest.raises(ArtifactError, match=r"^.*state: not the state of a run; remove it .*$"):
        run(QUICK, Journal(file, "settings"))


@pytest.mark.parametrize("kind", ["garbage", "cut off", "a list"])
def test_a_corrupt_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    file, buffer = tmp_path / "state", io.BytesIO()
    torch.save([1, 2], buffer)
    with pytest.raises(KeyboardInterrupt):
        run(QUICK, Stops(file, after=2))
    noted = file.read_bytes()
    content = {"garbage": b"garbage", "cut off": noted[:-100], "a list": buffer.getvalue()}
    file.write_bytes(content[kind])
    with pytest.raises(ArtifactError, match=r"^.*state: not the state of a run; remove it .*$"):
        run(QUICK, Journal(file, "settings"))
