"""Retrained networks: each trained once, never on what is forgotten, and read back whole."""

import fcntl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bandstop.edit import train as train_module
from bandstop.edit.checkpoint import describe_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import statistics
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.evaluation import oracle
from bandstop.edit.evaluation.oracle import remaining, retrained
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.request import ForgetRequest
from bandstop.edit.storage import state_sha256
from bandstop.edit.train import Recipe, train
from bandstop.edit.training import Training
from tests.networks import corners

ARCH = Arch("bandstop:resnet", {"width": 4, "blocks": "1"})
RECIPE = Recipe(epochs=2, batch=16, lr=0.1, shift=1, flip=False)
THIRD = ForgetRequest(classes=(2,))


def splits() -> DataSplits:
    images = corners(80)
    names = ("a", "b", "c", "d")
    return DataSplits(images, corners(40, 1), corners(40, 2), names, statistics(images))


def digest(model: Classifier) -> str:
    return state_sha256(model.network.state_dict())


def files(cache: Path) -> dict[str, tuple[int, int]]:
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in cache.iterdir()}


def test_a_network_is_trained_once_and_leaves_one_file(tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    first = retrained(cache, ARCH, splits(), RECIPE, THIRD, 5)
    before = files(cache)
    assert [Path(name).suffix for name in before] == [".safetensors"]
    second = retrained(cache, ARCH, splits(), RECIPE, THIRD, 5)
    assert files(cache) == before
    assert digest(first) == digest(second)
    assert not second.training


def changed(**what: object) -> dict[str, Any]:
    asked = {"arch": ARCH, "data": splits(), "recipe": RECIPE, "request": THIRD, "seed": 5}
    return {**asked, **what}


def brighter(data: DataSplits) -> DataSplits:
    """Return other pixels with the same labels, class names and preprocessing."""
    pixels = data.train.images[torch.arange(80)] + 1
    return replace(data, train=ImageSet(pixels, data.train.index, data.train.labels))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 6},
        {"recipe": replace(RECIPE, lr=0.05)},
        {"request": ForgetRequest(classes=(1,))},
        {"request": ForgetRequest(classes=(1, 2))},
        {"request": None},
        {"request": ForgetRequest(instances=(2, 6))},
        {"arch": Arch(ARCH.name, {"width": 5, "blocks": "1"})},
        {"data": replace(splits(), train=splits().train.take(torch.arange(79)))},
        {"data": brighter(splits())},
    ],
)
def test_another_network_is_trained_when_anything_else_is_asked(
    tmp_path: Path, other: dict[str, object]
) -> None:
    first = retrained(tmp_path, **changed())
    second = retrained(tmp_path, **changed(**other))
    assert len(files(tmp_path)) == 2
    assert digest(first) != digest(second)


def test_it_is_what_training_without_the_images_gives(tmp_path: Path) -> None:
    data = splits()
    by_hand = replace(
        data,
        train=data.train.take(data.train.labels != 2),
        validate=data.validate.take(data.validate.labels != 2),
    )
    assert digest(retrained(tmp_path, **changed())) == digest(train(ARCH, by_hand, RECIPE, seed=5))
    whole = retrained(tmp_path, **changed(request=None))
    assert digest(whole) == digest(train(ARCH, data, RECIPE, seed=5))


def test_what_is_forgotten_is_not_there_and_all_else_is() -> None:
    data = splits()
    left = remaining(data, THIRD)
    assert left.train.index.tolist() == [i for i in range(80) if i % 4 != 2]
    assert set(left.validate.labels.tolist()) == {0, 1, 3}
    assert left.test is data.test
    assert left.class_names == data.class_names
    # single images: their class stays among the validation images
    left = remaining(data, ForgetRequest(instances=(2, 7)))
    assert left.train.index.tolist() == [i for i in range(80) if i not in (2, 7)]
    assert len(left.validate) == 40


@pytest.mark.parametrize(
    ("request_", "without"),
    [(THIRD, (2,)), (None, ()), (ForgetRequest(instances=(1,)), ())],
)
def test_the_file_says_what_it_is(
    tmp_path: Path, request_: ForgetRequest | None, without: tuple[int, ...]
) -> None:
    retrained(tmp_path, **changed(request=request_), split_seed=9)
    (file,) = tmp_path.iterdir()
    said = describe_checkpoint(file)
    assert said.without == without
    assert said.seed == 9  # the one that divides the data, for whoever reads the file
    assert said.arch.arch() == ARCH


def test_data_without_a_class_and_a_request_for_it_have_a_file_each(tmp_path: Path) -> None:
    before = changed(data=remaining(splits(), ForgetRequest(classes=(1, 2))))
    retrained(tmp_path, **{**before, "request": None})
    same = changed(request=ForgetRequest(classes=(1, 2)))
    retrained(tmp_path, **same)
    assert {describe_checkpoint(f).without for f in tmp_path.iterdir()} == {(), (1, 2)}


def test_the_seed_of_the_training_is_said_where_it_divided_the_data(tmp_path: Path) -> None:
    retrained(tmp_path, **changed())
    (file,) = tmp_path.iterdir()
    assert describe_checkpoint(file).seed == 5


def test_an_interrupted_training_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrained(tmp_path / "whole", **changed())
    (whole,) = (tmp_path / "whole").iterdir()
    cache, run = tmp_path / "cache", train_module._epoch_
    done: list[int] = []

    def interrupted(training: Training, *rest: object) -> None:
        if done == [0]:
            raise KeyboardInterrupt
        done.append(training.epoch)
        run(training, *rest)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(train_module, "_epoch_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        retrained(cache, **changed())
    assert {f.suffix for f in cache.iterdir()} == {".partial", ".lock"}
    done.append(-1)
    retrained(cache, **changed())
    assert done == [0, -1, 1]  # the first epoch was not made again
    (again,) = cache.iterdir()
    assert again.name == whole.name
    assert again.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "how", [lambda data: data[:-100], lambda data: b"", lambda data: b"<html>" + data]
)
@pytest.mark.parametrize("kind", ["safetensors", "partial"])
def test_a_corrupt_file_is_refused_in_one_line_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[bytes], bytes], kind: str
) -> None:
    retrained(tmp_path, **changed())
    (file,) = tmp_path.iterdir()
    broken = file.with_suffix(f".{kind}")
    broken.write_bytes(how(file.read_bytes()))
    if kind == "partial":
        file.unlink()
    with pytest.raises(ArtifactError, match=rf"{broken.name}: .*remove ") as refused:
        retrained(tmp_path, **changed())
    assert "\n" not in str(refused.value)
    broken.unlink()
    retrained(tmp_path, **changed())


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    retrained(tmp_path / "a", **changed())
    (file,) = (tmp_path / "a").iterdir()
    for other in ({"request": ForgetRequest(classes=(1,))}, {"data": other_names()}):
        cache = tmp_path / str(len(list(tmp_path.iterdir())))
        retrained(cache, **changed(**other))
        (theirs,) = cache.iterdir()
        file.write_bytes(theirs.read_bytes())
        with pytest.raises(ArtifactError, match="another network than its name says; remove"):
            retrained(tmp_path / "a", **changed())


def other_names() -> DataSplits:
    return replace(splits(), class_names=("a", "b", "c", "e"))


def test_a_second_process_waits_and_takes_what_the_first_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest(retrained(tmp_path / "first", **changed()))
    (made,) = (tmp_path / "first").iterdir()
    cache, found = tmp_path / "second", list[str]()
    cache.mkdir()

    def never(*_: object, **__: object) -> Classifier:
        raise AssertionError("trained a network that another process was training")

    monkeypatch.setattr(oracle, "train", never)
    asks = threading.Thread(target=lambda: found.append(digest(retrained(cache, **changed()))))
    with (cache / made.with_suffix(".lock").name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asks.start()
        time.sleep(0.3)
        assert asks.is_alive()
        made.rename(cache / made.name)
    asks.join(10)
    assert found == [expected]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ForgetRequest(classes=(2, 7)), r"without the classes \[7\].*among \[0, 1, 2, 3\]"),
        (ForgetRequest(instances=(2, 99)), "1 of 2 are no training images"),
        (ForgetRequest(classes=(0, 1, 2, 3)), "at least two training images"),
    ],
)
def test_what_cannot_be_left_out_is_refused(
    tmp_path: Path, request_: ForgetRequest, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        retrained(tmp_path, **changed(request=request_))


def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for cache in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(InputError, match="not a folder that can be written"):
            retrained(cache, **changed())
