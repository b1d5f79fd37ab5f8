"""The loop that all training baselines share: batches by number, resumable, and what it refuses."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.baselines.fine_tune import FineTune
from bandstop.edit.baselines.neg_grad import NegGrad
from bandstop.edit.baselines.neg_grad_plus import NegGradPlus
from bandstop.edit.baselines.random_labels import RandomLabels
from bandstop.edit.baselines.salun import SalUn
from bandstop.edit.baselines.scrub import SCRUB
from bandstop.edit.baselines.ssd import SSD
from bandstop.edit.baselines.training import (
    Draws,
    check_images,
    cross_entropy,
    sgd,
    trained,
)
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import ArtifactError, DivergedError, InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal, write_state
from bandstop.edit.method import Method, check_numbers, split
from tests.baseline_toys import CLASS, DATA, INSTANCES, forget, resumed, same, state
from tests.networks import classifier, corners, tiny

METHODS: tuple[Method, ...] = (
    FineTune(epochs=1, batch=32),
    NegGrad(epochs=2, batch=16),
    NegGradPlus(batch=32, forget_batch=8),
    RandomLabels(epochs=1, batch=32, forget_batch=8),
    SalUn(epochs=1, batch=32, forget_batch=8),
    SCRUB(epochs=2, batch=64, forget_batch=16),
)
NAMES = [method.name for method in METHODS]


@pytest.mark.parametrize(("count", "size", "per_epoch"), [(12, 4, 3), (14, 4, 3), (3, 8, 1)])
def test_every_image_is_drawn_at_most_once_an_epoch(count: int, size: int, per_epoch: int) -> None:
    # the label tells which image it was
    images = replace(corners(count), labels=torch.arange(count))
    draws = Draws(images, size, seed=0)
    assert draws.per_epoch == per_epoch
    epochs = [
        torch.cat([draws(epoch * per_epoch + place)[1] for place in range(per_epoch)])
        for epoch in range(3)
    ]
    for labels in epochs:
        assert len(labels) == len(labels.unique()) == min(count, per_epoch * size)
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("augment", [True, False])
def test_a_number_gives_the_same_batch_whenever_it_is_asked_for(augment: bool) -> None:
    images = corners(40)
    first, again = (Draws(images, 8, seed=3, augment=augment) for _ in range(2))
    later = [again(step) for step in (7, 2, 11)]
    for (image, label), step in zip(later, (7, 2, 11), strict=True):
        assert torch.equal(first(step)[0], image)
        assert torch.equal(first(step)[1], label)
    assert not torch.equal(first(7)[0], Draws(images, 8, seed=4, augment=augment)(7)[0])


def test_images_stay_as_they_are_unless_they_are_augmented() -> None:
    images = corners(8)
    stored, _ = next(images.batches(8))
    drawn, _ = Draws(images, 8, seed=0, augment=False)(0)
    assert torch.equal(drawn.sum((1, 2, 3)).sort().values, stored.sum((1, 2, 3)).sort().values)
    assert not torch.equal(drawn, Draws(images, 8, seed=0)(0)[0])


def dropping() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5))
        return classifier(nn.Sequential(hidden, nn.Linear(16, 4)))


@dataclass(slots=True)
class Stopped:
    """A loss whose run is stopped by the user at a step, once."""

    draws: Draws
    at: int | None = None

    def __call__(self, student: Classifier, step: int) -> Tensor:
        if step == self.at:
            self.at = None
            raise KeyboardInterrupt
        return cross_entropy(student, *self.draws(step))


def run(model: Classifier, loss: Stopped, journal: Journal | None = None) -> dict[str, Tensor]:
    student, steps = trained(
        model, loss, 12, name="toy", optimizer=sgd(0.05), seed=5, journal=journal
    )
    assert steps == 12
    assert not student.training
    return state(student)


@pytest.mark.parametrize("model", [tiny(), dropping()], ids=["batchnorm", "dropout"])
@pytest.mark.parametrize("at", [1, 6, 11])
def test_an_interrupted_training_ends_with_the_same_bytes(
    model: Classifier, at: int, tmp_path: Path
) -> None:
    draws, before = Draws(corners(40), 8, seed=1), state(model)
    loss, journal = Stopped(draws, at), Journal(tmp_path / "state", every=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(model, loss, journal)
    resumed_, whole = run(model, loss, journal), run(model, Stopped(draws))
    assert all(torch.equal(value, whole[name]) for name, value in resumed_.items())
    assert any(not torch.equal(value, before[name]) for name, value in whole.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dropout_differs_from_step_to_step_and_not_from_run_to_run() -> None:
    drawn: list[float] = []

    def loss(student: Classifier, step: int) -> Tensor:
        drawn.append(float(torch.rand(())))
        return cross_entropy(student, *Draws(corners(8), 8, 0)(step))

    for _ in range(2):
        trained(tiny(), loss, 4, name="toy", optimizer=sgd(0.01), seed=0)
    assert drawn[:4] == drawn[4:]
    assert len(set(drawn)) == 4


def test_a_run_that_had_ended_is_not_run_again(tmp_path: Path) -> None:
    draws, journal = Draws(corners(40), 8, seed=1), Journal(tmp_path / "state", every=0.0)
    whole = run(tiny(), Stopped(draws), journal)
    again = run(tiny(), Stopped(draws, at=0), journal)  # no step is taken, so nothing stops it
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


@pytest.mark.parametrize(
    "wrong", [{}, {"network": {}, "optimizer": {}, "step": 1}, {"network": 3, "step": "x"}]
)
def test_a_state_of_something_else_is_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    write_state(tmp_path / "state", "", wrong)
    with pytest.raises(ArtifactError, match="remove it to start anew"):
        run(tiny(), Stopped(Draws(corners(8), 8, seed=0)), Journal(tmp_path / "state"))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("after", [1, 3])
def test_every_method_goes_on_where_it_was_killed(
    method: Method, after: int, tmp_path: Path
) -> None:
    assert same(resumed(method, tmp_path / "state", after), forget(method))


@pytest.mark.parametrize("method", [*METHODS, SSD(alpha=1.5, batch=64)], ids=[*NAMES, "ssd"])
def test_instances_are_unlearned_as_classes_are(method: Method) -> None:
    edit = forget(method, INSTANCES)
    assert edit.weights
    assert not same(edit, forget(method, CLASS))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_before_the_step(value: float) -> None:
    seen: list[int] = []

    def loss(student: Classifier, step: int) -> Tensor:
        seen.append(step)
        return cross_entropy(student, *Draws(corners(8), 8, 0)(0)) * (value if step == 2 else 1)

    with pytest.raises(DivergedError, match=r"toy: the loss is \S+ at step 3; lower lr"):
        trained(tiny(), loss, 9, name="toy", optimizer=sgd(0.01), seed=0)
    assert seen == [0, 1, 2]


def test_it_stops_where_it_is_finished_and_tells_how_many_steps_that_took() -> None:
    done: list[int] = []
    _, steps = trained(
        tiny(),
        Stopped(Draws(corners(40), 8, seed=0)),
        9,
        name="toy",
        optimizer=sgd(0.01),
        seed=0,
        after_step=lambda student: done.append(len(done)),
        finished=lambda student, step: not student.training and step == 4,
    )
    assert steps == len(done) == 4


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        (("forget",), "^fine-tune: no images to forget$"),
        (("retain",), "^fine-tune: no images to retain$"),
        (("forget", "retain"), "^fine-tune: no images to forget and none to retain$"),
    ],
)
def test_data_without_the_images_is_refused(empty: tuple[str, ...], message: str) -> None:
    parts = split(DATA, CLASS)
    nothing = {kind: parts.retain.of_classes(()) for kind in empty}
    data = replace(parts, **nothing)
    with pytest.raises(InputError, match=message):
        check_images(FineTune(), data, "forget", "retain")
    check_images(FineTune(), parts, "forget", "retain")


@pytest.mark.parametrize("method", [*METHODS[2:], SSD(batch=64)], ids=[*NAMES[2:], "ssd"])
@pytest.mark.parametrize("kind", ["forget", "retain"])
def test_methods_that_compare_want_both_kinds(method: Method, kind: str) -> None:
    parts = split(DATA, CLASS)
    nothing: ImageSet = parts.retain.of_classes(())
    with pytest.raises(InputError, match=f"{method.name}: no images to {kind}"):
        forget(method, data=replace(parts, **{kind: nothing}))


@dataclass(frozen=True, slots=True)
class Numbers(FineTune):
    """A method with a number of each range."""

    name: ClassVar[str] = "numbers"
    above: float = 1.0
    zero: float = 0.0
    part: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, ("above",), ("zero", "part"), up_to_one=("part",))


@pytest.mark.parametrize(
    ("above", "zero", "part", "message"),
    [
        (0.0, 0.0, 0.0, "numbers: above must be a number above 0, got 0.0"),
        (1.0, -0.1, 0.0, "numbers: zero must be a number from 0, got -0.1"),
        (1.0, 0.0, 1.1, "numbers: part must be at most 1, got 1.1"),
        (float("nan"), float("inf"), 1.0, "above must .* got nan; zero must .* got inf"),
        (-1.0, -1.0, -1.0, "above must .*; zero must .*; part must be a number from 0, got -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_all_at_once(
    above: float, zero: float, part: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Numbers(above=above, zero=zero, part=part)
    Numbers(above=1e-9, zero=0.0, part=1.0)
