"""Training: reproducible to the byte, also across an interruption; stopped when it must."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit import train as train_module
from bandstop.edit.accuracy import accuracy, logits
from bandstop.edit.augment import crops, mirrored, shifted
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import statistics
from bandstop.edit.errors import ArtifactError, DivergedError, InputError
from bandstop.edit.images import DataSplits, ImageSet, Preprocess
from bandstop.edit.storage import state_sha256
from bandstop.edit.train import (
    CHARACTERS,
    DIGITS,
    PLAIN,
    TRANSFORMER,
    Recipe,
    one_cycle,
    recipe_for,
    train,
    validation_accuracy,
)
from bandstop.edit.training import Training
from tests.networks import corners

ARCH = Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"})
RECIPE = Recipe(epochs=3, batch=16, lr=0.1, shift=1, flip=False)
NAMES = ("a", "b", "c", "d")


def splits(count: int = 80) -> DataSplits:
    images = corners(count)
    return DataSplits(images, corners(40, 1), corners(40, 2), NAMES, statistics(images))


def digest(model: Classifier) -> str:
    return state_sha256(model.network.state_dict())


@pytest.mark.parametrize(
    "arch",
    [
        ARCH,
        Arch("bandstop:vgg", {"width": 2}),
        Arch("bandstop:vit", {"dim": 8, "depth": 1, "heads": 2}),
    ],
)
def test_the_seed_alone_decides_the_bytes(arch: Arch, tmp_path: Path) -> None:
    recipe = replace(recipe_for(arch, splits()), epochs=2, flip=True)
    for name, noise, seed in (("a", 1, 5), ("b", 2, 5), ("c", 2, 6)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        save_checkpoint(tmp_path / name, train(arch, splits(), recipe, seed=seed), seed=5)
        assert torch.equal(torch.get_rng_state(), before)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_network_learns_what_can_be_learnt() -> None:
    data = splits(200)
    model = train(ARCH, data, replace(RECIPE, epochs=8))
    assert validation_accuracy(model, data) >= 0.9
    assert accuracy(logits(model, data.test).argmax(1), data.test.labels) >= 0.9
    assert not model.training


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the training when epoch `epochs` + 1 begins."""
    run = train_module._epoch_

    def interrupted(training: Training, *rest: object) -> None:
        if training.epoch == epochs:
            raise KeyboardInterrupt
        run(training, *rest)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(train_module, "_epoch_", interrupted)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_an_interrupted_training_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, optimizer: str
) -> None:
    recipe = RECIPE if optimizer == "sgd" else replace(RECIPE, optimizer="adamw", lr=0.01)
    whole = train(ARCH, splits(), recipe)
    partial = tmp_path / "partial"
    with monkeypatch.context() as patched:
        stop_after(epochs, patched)
        with pytest.raises(KeyboardInterrupt):
            train(ARCH, splits(), recipe, partial=partial)
    assert partial.exists()
    torch.manual_seed(99)
    assert digest(train(ARCH, splits(), recipe, partial=partial)) == digest(whole)
    # and a finished one has nothing left to do
    stop_after(3, monkeypatch)
    assert digest(train(ARCH, splits(), recipe, partial=partial)) == digest(whole)


def dropping(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, num_classes))


def test_dropout_is_decided_by_the_seed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, partial = Arch("tests.test_train:dropping"), tmp_path / "partial"
    torch.manual_seed(1)
    whole = train(arch, splits(), RECIPE, trust_factory=True)
    torch.manual_seed(2)
    assert digest(train(arch, splits(), RECIPE, trust_factory=True)) == digest(whole)
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        with pytest.raises(KeyboardInterrupt):
            train(arch, splits(), RECIPE, partial=partial, trust_factory=True)
    resumed = train(arch, splits(), RECIPE, partial=partial, trust_factory=True)
    assert digest(resumed) == digest(whole)


def test_a_training_starts_from_given_weights(tmp_path: Path) -> None:
    first = train(ARCH, splits(), RECIPE, seed=1)
    still = replace(RECIPE, epochs=1, lr=1e-12)
    again = train(ARCH, splits(), still, seed=2, start=first.network.state_dict())
    for (name, old), new in zip(
        first.network.named_parameters(), again.network.parameters(), strict=True
    ):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-9, msg=name)
    assert digest(train(ARCH, splits(), still, seed=2)) != digest(again)


def test_weights_of_another_network_are_refused() -> None:
    other = train(replace(ARCH, args={"width": 8, "blocks": "1-1"}), splits(), RECIPE)
    with pytest.raises(InputError, match="the weights to start from do not fit bandstop:resnet"):
        train(ARCH, splits(), RECIPE, start=other.network.state_dict())


def test_keeping_the_state_changes_nothing(tmp_path: Path) -> None:
    kept = train(ARCH, splits(), RECIPE, partial=tmp_path / "partial")
    assert digest(kept) == digest(train(ARCH, splits(), RECIPE))


def damaged(partial: Path, how: Callable[[bytes], bytes]) -> Path:
    partial.write_bytes(how(partial.read_bytes()))
    return partial


@pytest.mark.parametrize(
    "how",
    [
        lambda data: data[:-100],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"<html>",
    ],
)
def test_a_corrupt_state_is_one_line(tmp_path: Path, how: Callable[[bytes], bytes]) -> None:
    train(ARCH, splits(), replace(RECIPE, epochs=1), partial=tmp_path / "partial")
    with pytest.raises(ArtifactError, match="remove it to start anew") as refused:
        train(ARCH, splits(), replace(RECIPE, epochs=1), partial=damaged(tmp_path / "partial", how))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [[1], {"settings": 3}, {"epoch": 1}])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "partial")
    with pytest.raises((ArtifactError, InputError), match="remove it to start anew"):
        train(ARCH, splits(), RECIPE, partial=tmp_path / "partial")


def test_a_state_that_lacks_something_is_refused(tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    recipe = replace(RECIPE, epochs=1)
    train(ARCH, splits(), recipe, partial=partial)
    whole = torch.load(partial, weights_only=True)
    for key in whole.keys() - {"settings"}:
        torch.save({k: v for k, v in whole.items() if k != key}, partial)
        with pytest.raises(ArtifactError, match="not the state of a run"):
            train(ARCH, splits(), recipe, partial=partial)


@pytest.mark.parametrize(
    ("arch", "data", "recipe", "seed"),
    [
        (Arch(ARCH.name, {"width": 5, "blocks": "1-1"}), splits(), RECIPE, 0),
        (ARCH, splits(76), RECIPE, 0),
        (ARCH, splits(), replace(RECIPE, lr=0.2), 0),
        (ARCH, splits(), RECIPE, 1),
    ],
)
def test_the_state_of_another_training_is_refused(
    tmp_path: Path, arch: Arch, data: DataSplits, recipe: Recipe, seed: int
) -> None:
    train(ARCH, splits(), RECIPE, partial=tmp_path / "partial")
    with pytest.raises(InputError, match="other settings or data"):
        train(arch, data, recipe, seed=seed, partial=tmp_path / "partial")


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="lower lr") as stopped:
        train(ARCH, splits(), replace(RECIPE, lr=1e30), partial=tmp_path / "partial")
    assert stopped.value.exit_code == 1
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_stops_the_training(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(train_module, "logits", lambda *_: torch.full((40, 4), value))
    with pytest.raises(DivergedError, match="validation loss"):
        train(ARCH, splits(), RECIPE)


def test_a_class_may_be_left_out() -> None:
    data = splits(200)
    three = replace(
        data, train=data.train.without_classes([2]), validate=data.validate.without_classes([2])
    )
    model = train(ARCH, three, replace(RECIPE, epochs=8))
    predicted = logits(model, data.test).argmax(1)
    assert model.num_classes == 4
    assert 2 not in predicted.tolist()
    retained = data.test.labels != 2
    assert accuracy(predicted[retained], data.test.labels[retained]) >= 0.9


def scripted(losses: list[float]) -> Callable[[Classifier, object], Tensor]:
    """Return answers for `logits` whose loss on corners(40, 1) is each of `losses` in turn."""
    remaining: Iterator[float] = iter(losses)
    labels = corners(40, 1).labels

    def answer(_model: Classifier, _images: object) -> Tensor:
        # with p = exp(-loss) for the right class and the rest divided by three
        right = torch.tensor(-next(remaining))
        rest = torch.log1p(-right.exp()) - torch.log(torch.tensor(3.0))
        return torch.where(torch.nn.functional.one_hot(labels, 4).bool(), right, rest)

    return answer


@pytest.mark.parametrize(
    ("losses", "patience", "epochs"),
    [
        ([0.9, 0.8, 0.85, 0.84, 0.7], 2, 4),
        ([0.9, 0.8, 0.85, 0.7, 0.71], 2, 5),
        ([0.9, 0.91, 0.5, 0.4, 0.3], 1, 2),
        ([0.9, 0.91, 0.92, 0.93, 0.94], None, 5),
    ],
)
def test_patience_ends_a_training_that_gets_no_better(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    patience: int | None,
    epochs: int,
) -> None:
    monkeypatch.setattr(train_module, "logits", scripted(losses))
    recipe = replace(RECIPE, epochs=5, patience=patience)
    partial = tmp_path / "partial"
    model = train(ARCH, splits(), recipe, partial=partial)
    state = torch.load(partial, weights_only=True)
    assert state["epoch"] == epochs
    assert state["best_epoch"] == 1 + losses[:epochs].index(min(losses[:epochs]))
    # resuming one that has stopped goes no further
    assert digest(train(ARCH, splits(), recipe, partial=partial)) == digest(model)


def test_the_best_epoch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after: list[str] = []
    answer = scripted([0.9, 0.5, 0.8])

    def recorded(model: Classifier, images: object) -> Tensor:
        after.append(digest(model))
        return answer(model, images)

    monkeypatch.setattr(train_module, "logits", recorded)
    best = digest(train(ARCH, splits(), RECIPE))
    assert len(set(after)) == 3
    assert best == after[1]


@pytest.mark.parametrize("count", [2, 3, 17, 33])
@pytest.mark.parametrize("epochs", [1, 2])
def test_few_images_and_a_last_one_alone_can_be_trained_on(count: int, epochs: int) -> None:
    train(ARCH, splits(count), replace(RECIPE, epochs=epochs))


def test_nothing_to_train_on_is_refused() -> None:
    data = splits()
    none = data.train.take(torch.arange(0))
    for broken in (replace(data, train=none), replace(data, validate=none)):
        with pytest.raises(InputError, match="at least two training images and one validation"):
            train(ARCH, broken, RECIPE)


# recipes


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"batch": 1}, "batch >= 2"),
        ({"lr": 0.0}, "lr > 0"),
        ({"lr": float("nan")}, "lr > 0"),
        ({"lr": float("inf")}, "lr > 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
        ({"warm_up": 0.0}, "0 < warm_up < 1"),
        ({"label_smoothing": 1.0}, "0 <= label_smoothing < 1"),
        ({"shift": -1}, "shift >= 0"),
        ({"patience": 0}, "patience >= 1"),
        ({"epochs": 0, "lr": -1.0}, "epochs >= 1, lr > 0"),
    ],
)
def test_a_recipe_out_of_range_is_refused(setting: dict[str, float], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        replace(RECIPE, **setting)  # type: ignore[arg-type]  # the table mixes int and float


def sized(side: int, channels: int) -> DataSplits:
    prep = Preprocess((side, side), channels, (0.5,) * channels, (0.25,) * channels)
    return replace(splits(), preprocess=prep)


@pytest.mark.parametrize(
    ("arch", "side", "channels", "expected"),
    [
        (DIGITS, 8, 1, CHARACTERS),
        (Arch("bandstop:vgg"), 8, 1, CHARACTERS),
        (Arch("bandstop:resnet"), 32, 3, Recipe()),
        (Arch("timm:resnet18"), 32, 3, Recipe()),
        (Arch("bandstop:resnet"), 28, 1, replace(Recipe(), shift=3, flip=False)),
        (Arch("bandstop:vgg"), 32, 3, replace(PLAIN, shift=4, flip=True)),
        (Arch("bandstop:vit"), 32, 3, TRANSFORMER),
        (Arch("bandstop:vit"), 8, 1, replace(TRANSFORMER, shift=1, flip=False)),
    ],
)
def test_the_recipe_suits_network_and_images(
    arch: Arch, side: int, channels: int, expected: Recipe
) -> None:
    assert recipe_for(arch, sized(side, channels)) == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 1000])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(steps: int) -> None:
    shares = [one_cycle(step, steps, 0.25) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    top = shares.index(max(shares))
    assert shares == sorted(shares[:top]) + sorted(shares[top:], reverse=True)
    assert abs(top - 0.25 * steps) < 1


def test_the_rate_is_known_at_five_places() -> None:
    shares = [one_cycle(step, 400, 0.25) for step in (0, 50, 100, 250, 399)]
    assert shares == pytest.approx([0.04, 0.52, 1, 0.5, 0], abs=1e-4)


def test_the_optimizer_is_given_the_rate(tmp_path: Path) -> None:
    train(ARCH, splits(), RECIPE, partial=tmp_path / "partial")
    state = torch.load(tmp_path / "partial", weights_only=True)
    assert state["step"] == 15  # three epochs of five batches
    group = state["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(0.1 * one_cycle(14, 15, 0.25))


# augmentation


def dot(n: int, row: int, column: int) -> Tensor:
    image = torch.zeros(n, 2, 7, 9)
    image[:, :, row, column] = 1
    return image


def test_a_shift_moves_each_picture_whole_by_at_most_so_much() -> None:
    moved = shifted(dot(500, 3, 4), 2, torch.Generator().manual_seed(0))
    assert moved.shape == (500, 2, 7, 9)
    assert torch.equal(moved[:, 0], moved[:, 1])  # channels together
    assert moved.sum((1, 2, 3)).tolist() == [2] * 500
    places = {(int(r), int(c)) for _, _, r, c in moved.nonzero()}
    assert places == {(r, c) for r in range(1, 6) for c in range(2, 7)}  # all 25, no more


def test_a_shift_brings_in_black_and_wraps_nothing() -> None:
    moved = shifted(torch.ones(200, 1, 4, 4), 1, torch.Generator().manual_seed(0))
    assert set(moved.sum((1, 2, 3)).tolist()) == {16, 12, 9}


def test_crops_show_parts_of_each_picture_and_keep_its_label() -> None:
    ramp = torch.linspace(0, 255, 40).round().to(torch.uint8).expand(1, 1, 20, 40)
    flat = torch.full((1, 1, 20, 40), 77, dtype=torch.uint8)
    images = ImageSet(torch.cat([ramp, flat]), torch.arange(2), torch.tensor([3, 1]))
    made = crops(images, 50, torch.Generator().manual_seed(0), smallest=0.25)
    assert made.labels.tolist() == [3] * 50 + [1] * 50
    pixels = torch.cat([image for image, _ in made.batches(10)])
    torch.testing.assert_close(pixels[50:], torch.full_like(pixels[50:], 77 / 255))
    span = pixels[:50].amax((1, 2, 3)) - pixels[:50].amin((1, 2, 3))  # share of the width
    assert 0.25 <= float(span.min()) < 0.6 < float(span.max()) <= 1
    rising = pixels[:50, 0, 0, -1] > pixels[:50, 0, 0, 0]
    assert 10 <= int(rising.sum()) <= 40  # the others are mirrored
    again = crops(images, 50, torch.Generator().manual_seed(0), smallest=0.25)
    assert torch.equal(again.images[again.index], made.images[made.index])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_shift_leaves_channels_in_front(channels: int) -> None:
    # see shifted: channels-last, the backward pass breaks the heap
    moved = shifted(torch.ones(2, channels, 5, 4), 1, torch.Generator().manual_seed(0))
    assert moved.stride() == (20 * channels, 20, 4, 1)


def test_half_of_the_pictures_are_mirrored_left_to_right() -> None:
    image = dot(1000, 1, 2)
    seen = mirrored(image, torch.Generator().manual_seed(0))
    was = (seen == image.flip(3)).all((1, 2, 3))
    assert bool((was | (seen == image).all((1, 2, 3))).all())
    assert 400 < int(was.sum()) < 600


@pytest.mark.parametrize(
    ("shift", "flip", "places"),
    [(0, False, {(3, 2)}), (0, True, {(3, 2), (3, 6)}), (1, False, 9), (1, True, 18)],
)
def test_a_recipe_asks_for_shifts_and_flips(
    shift: int, flip: bool, places: set[tuple[int, int]] | int
) -> None:
    generator = torch.Generator().manual_seed(0)
    recipe = replace(RECIPE, shift=shift, flip=flip)
    seen = train_module._augmented(dot(500, 3, 2), recipe, generator)
    found = {(int(r), int(c)) for _, _, r, c in seen.nonzero()}
    assert len(found) == places if isinstance(places, int) else found == places
