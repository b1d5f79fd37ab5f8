"""Checkpoints: what goes in comes out, the same bytes each time, and anything else is refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.checkpoint import describe_checkpoint, load_checkpoint, save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.images import Preprocess
from bandstop.edit.storage import state_sha256
from bandstop.edit.train import Recipe

ARCH = Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"})
PREP = Preprocess((8, 8), 1, (0.3,), (0.4,), resize=9, interpolation="bicubic")
NAMES = ("cat", "cat", 'naïve "fish"')  # ImageNet too has two names twice


def model(names: tuple[str, ...] = NAMES) -> Classifier:
    return Classifier(build(ARCH, len(names), 1, (8, 8), seed=1), ARCH, PREP, names)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "base.safetensors", model(), seed=7)
    return tmp_path / "base.safetensors"


def test_what_goes_in_comes_out(saved: Path) -> None:
    back, before = load_checkpoint(saved), model()
    assert (back.arch, back.preprocess, back.class_names) == (ARCH, PREP, NAMES)
    assert not back.bn_folded
    assert not back.training
    assert state_sha256(back.network.state_dict()) == state_sha256(before.network.state_dict())
    assert torch.equal(back(example(back, 3)), before(example(before, 3)))


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "again.safetensors", load_checkpoint(saved), seed=7)
    save_checkpoint(tmp_path / "other.safetensors", load_checkpoint(saved), seed=8)
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != saved.read_bytes()


def test_the_recipe_comes_back(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, lr=0.15, flip=False, patience=None)
    save_checkpoint(tmp_path / "with", model(), seed=7, recipe=recipe)
    save_checkpoint(tmp_path / "without", model(), seed=7)
    assert describe_checkpoint(tmp_path / "with").recipe == recipe
    assert describe_checkpoint(tmp_path / "without").recipe is None


def test_an_existing_output_is_refused_and_left_alone(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(InputError, match="exists"):
        save_checkpoint(saved, model(), seed=8)
    assert saved.read_bytes() == before


def test_a_folded_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got a folded one"):
        save_checkpoint(tmp_path / "out", fold_batchnorm(model()), seed=0)
    assert list(tmp_path.iterdir()) == []


def parts(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return safetensors.torch.load(data), json.loads(header["__metadata__"]["bandstop"])


def rewrite(path: Path, state: dict[str, Tensor], record: object) -> None:
    metadata = {"bandstop": json.dumps(record)} if record is not None else {"other": "x"}
    path.write_bytes(safetensors.torch.save(state, metadata))


def test_another_number_of_classes_names_both(saved: Path) -> None:
    state, record = parts(saved)
    rewrite(saved, state, record | {"class_names": ["a", "b", "c", "d", "e"]})
    with pytest.raises(ArtifactError, match=r"3 classes, expected 5: fc\.bias: expected") as no:
        load_checkpoint(saved)
    assert no.value.exit_code == 5


Change = Callable[[dict[str, Tensor], dict[str, object]], object]


def without(name: str) -> Change:
    return lambda state, _: state.pop(name)


def tensor(name: str, value: Tensor) -> Change:
    return lambda state, _: state.update({name: value})


def field(name: str, value: object) -> Change:
    return lambda _, record: record.update({name: value})


def prep(**values: object) -> dict[str, object]:
    return {
        "size": [8, 8],
        "channels": 1,
        "mean": [0.3],
        "std": [0.4],
        "resize": None,
        "interpolation": "bilinear",
    } | values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("fc.bias"), "fc.bias: missing"),
        (tensor("smuggled", torch.zeros(2)), "'smuggled': not expected"),
        (tensor("fc.bias", torch.zeros(3).half()), r"torch\.float32 .* got torch\.float16"),
        (tensor("fc.bias", torch.tensor([0, float("nan"), 0])), "fc.bias: holds NaN"),
        (tensor("bn1.running_var", -torch.ones(4)), "bn1.running_var: holds a negative variance"),
        (tensor("conv1.weight", torch.zeros(5, 1, 3, 3)), "network: conv1.weight: expected"),
        (field("format", "bandstop-checkpoint/2"), "format: "),
        (field("surprise", 1), "surprise: Extra inputs"),
        (field("seed", "7"), "seed: "),
        (field("recipe", {"epochs": "3"}), r"recipe\.epochs: "),
        (field("recipe", {"epochs": 0}), "epochs >= 1"),
        (field("recipe", {"surprise": 3}), "surprise"),
        (field("class_names", ["one"]), "class_names: "),
        (field("class_names", ["a", "", "c"]), r"class_names\.1: "),
        (field("preprocess", prep(mean=[0.1, 0.2, 0.3])), "expected 1 values in mean"),
        (field("preprocess", prep(mean=[0.1] * 3, std=[0.4] * 3)), "got 3 and 3"),
        (field("preprocess", prep(std=[0.0])), r"preprocess\.std\.0: "),
        (field("preprocess", prep(mean=[float("nan")])), r"preprocess\.mean\.0: "),
        (field("preprocess", prep(size=[8])), r"preprocess\.size: "),
    ],
)
def test_a_checkpoint_that_is_not_what_it_says_is_refused(
    saved: Path, change: Change, message: str
) -> None:
    state, record = parts(saved)
    change(state, record)
    rewrite(saved, state, record)
    with pytest.raises(ArtifactError, match=message) as refused:
        load_checkpoint(saved)
    assert str(saved) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_misfits_are_told_at_once(saved: Path) -> None:
    state, record = parts(saved)
    del state["fc.bias"]
    state["smuggled"] = torch.zeros(2)
    rewrite(saved, state, record)
    with pytest.raises(ArtifactError, match=r"fc\.bias: missing; 'smuggled': not expected"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("name", "message"),
    [("bandstop:resnet99", "no network bandstop:resnet99"), ("os:system", "--trust-factory")],
)
def test_a_network_that_cannot_be_built_is_named_with_its_file(
    saved: Path, name: str, message: str
) -> None:
    state, record = parts(saved)
    rewrite(saved, state, record | {"arch": {"name": name, "args": {}}})
    with pytest.raises(InputError, match=message) as refused:
        load_checkpoint(saved)
    assert str(saved) in str(refused.value)


def test_a_file_without_a_description_is_refused(saved: Path) -> None:
    rewrite(saved, parts(saved)[0], None)
    with pytest.raises(ArtifactError, match="no description inside"):
        load_checkpoint(saved)


def head(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated, 0 bytes"),
        (b"ab", "truncated, 2 bytes"),
        (struct.pack("<Q", 2**60) + b"{}", "truncated, 10 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "looks like a Git LFS pointer"),
        (b"<!DOCTYPE html><title>404</title>", "truncated"),
        (head(b"[1, 2]"), "not a JSON object"),
        (head(b"{" * 9), "not JSON"),
        (head(b"[" * 100_000), "not JSON"),
        (head(b"\xff\xfe"), "not JSON"),
        (head(b'{"a": 1, "a": 2}'), "names a tensor twice"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("cut", [1, 100, -1])
def test_a_truncated_or_lengthened_checkpoint_is_refused(saved: Path, cut: int) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[:-cut] if cut > 0 else data + b"x")
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        load_checkpoint(saved)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match="no such file") as refused:
            load_checkpoint(path)
        assert refused.value.exit_code == 2
