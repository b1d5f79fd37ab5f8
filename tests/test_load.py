"""Classifiers from foreign weights: nothing is executed, copied blindly or guessed."""

import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bandstop.edit.arch import build
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.images import DataSplits, Preprocess
from bandstop.edit.load import load_model, read_weights
from bandstop.edit.origin import is_checkpoint
from tests.networks import corners

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.tensor([0.5, -0.5])}


def splits(classes: int = 4, channels: int = 1, side: int = 8) -> DataSplits:
    prep = Preprocess((side, side), channels, (0.5,) * channels, (0.25,) * channels)
    names = tuple(f"class {c}" for c in range(classes))
    return DataSplits(corners(), corners(), corners(), names, prep)


def same(state: Mapping[str, Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE},
        {"model": STATE, "epoch": 3},
        {"model_state_dict": {"module." + name: value for name, value in STATE.items()}},
        {"module." + name: value for name, value in STATE.items()},
        {name: nn.Parameter(value) for name, value in STATE.items()},
    ],
)
def test_weights_come_out_of_their_wrappers(tmp_path: Path, content: object) -> None:
    assert same(read_weights(write(tmp_path / "w.pt", content)))


def test_safetensors_are_weights_too(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(safetensors.torch.save(STATE))
    assert same(read_weights(tmp_path / "w.safetensors"))


def test_module_is_a_name_like_any_other_unless_all_begin_with_it(tmp_path: Path) -> None:
    state = {"module.weight": torch.zeros(1), "weight": torch.ones(1)}
    assert read_weights(write(tmp_path / "w.pt", state)).keys() == state.keys()


def test_weights_of_old_pytorch_are_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    assert same(read_weights(path))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ArtifactError, match="load safely") as refused:
        read_weights(path)
    assert "\n" not in str(refused.value)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("how", ["zipped", "old", "pickled"])
def test_a_pickled_payload_never_runs(tmp_path: Path, name: str, how: str) -> None:
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists()  # it would work
    ran.unlink()
    content, zipped = {"fc.bias": Payload(ran)}, how == "zipped"
    if how != "pickled":
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Payload(ran)))
    with pytest.raises(ArtifactError) as refused:
        read_weights(tmp_path / name)
    assert not ran.exists()
    assert "\n" not in str(refused.value)


def test_a_flipped_bit_is_caught(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", STATE)
    data = bytearray(path.read_bytes())
    at = data.index(STATE["fc.weight"].numpy().tobytes())
    data[at + 9] ^= 1
    path.write_bytes(data)
    # PyTorch itself reads on
    assert not torch.equal(torch.load(path, weights_only=True)["fc.weight"], STATE["fc.weight"])
    with pytest.raises(ArtifactError, match="inside is corrupt; fetch it again"):
        read_weights(path)


def test_a_small_file_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", {"fc.weight": torch.zeros(1).expand(3_000_000, 1000)})
    assert path.stat().st_size < 4000
    with pytest.raises(ArtifactError, match=r"fc\.weight holds fewer numbers than its shape says"):
        read_weights(path)


def test_a_packed_file_is_refused_unread(tmp_path: Path) -> None:
    path, packed = write(tmp_path / "w.pt", STATE), tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name in plain.namelist():
            out.writestr(name, plain.read(name))
    with pytest.raises(ArtifactError, match="inside is corrupt"):
        read_weights(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a mapping of names to tensors"),
        ({"fc.bias": 3.0}, "expected a mapping of names to tensors"),
        pytest.param(
            {"fc.bias": torch.zeros(3).to_sparse()},
            "holds fewer numbers",
            marks=pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning"),
        ),
        ({"fc.bias": torch.zeros(3, device="meta")}, "holds fewer numbers"),
        (nn.Linear(2, 2), "load safely"),
    ],
)
def test_anything_but_tensors_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_weights(write(tmp_path / "w.pt", content))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>404</html>", b"\x80\x02}q\x00."])
def test_what_is_neither_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=str(tmp_path)):
        read_weights(tmp_path / "w.pt")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", STATE)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ArtifactError):
        read_weights(path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as refused:
        read_weights(tmp_path / "absent")
    assert refused.value.exit_code == 2


# models


def test_a_timm_model_with_safetensors(tmp_path: Path) -> None:
    network = build(Arch("timm:resnet18"), 4, 3, (32, 32), seed=3)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(safetensors.torch.save(network.state_dict()))
    data = splits(channels=3, side=32)
    model = load_model("timm:resnet18", data, checkpoint=weights)
    assert (model.class_names, model.preprocess) == (data.class_names, data.preprocess)
    back = model.network.state_dict()
    assert all(torch.equal(value, back[name]) for name, value in network.state_dict().items())


def test_another_number_of_classes_names_both(tmp_path: Path) -> None:
    network = build(Arch("bandstop:resnet"), 7, 1, (8, 8))
    weights = write(tmp_path / "w.pt", network.state_dict())
    with pytest.raises(ArtifactError, match=r"7 classes, expected 10: fc\.bias") as refused:
        load_model("bandstop:resnet", splits(classes=10), checkpoint=weights)
    assert refused.value.exit_code == 5


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    network = build(Arch("bandstop:vgg"), 4, 1, (8, 8))
    weights = write(tmp_path / "w.pt", network.state_dict())
    with pytest.raises(ArtifactError, match=r"conv1\.weight: missing.*and \d+ more") as refused:
        load_model("bandstop:resnet", splits(), checkpoint=weights)
    assert "classes" not in str(refused.value)


def test_a_checkpoint_keeps_its_own_names_and_preprocessing(tmp_path: Path) -> None:
    arch, prep = Arch("bandstop:resnet", {"width": 4, "blocks": "1"}), splits().preprocess
    network = build(arch, 2, 1, (8, 8), seed=4)
    path = tmp_path / "base.safetensors"
    save_checkpoint(path, Classifier(network, arch, prep, ("hen", "owl")), seed=4)
    assert load_model(str(path), splits(classes=9)).class_names == ("hen", "owl")
    with pytest.raises(InputError, match="leave --checkpoint out"):
        load_model(str(path), splits(), checkpoint=path)


def test_an_architecture_needs_weights() -> None:
    with pytest.raises(InputError, match="say --checkpoint FILE"):
        load_model("timm:resnet18", splits())


def test_a_name_with_a_colon_is_a_file_only_if_it_exists(tmp_path: Path) -> None:
    (tmp_path / "a:b").touch()
    assert is_checkpoint(str(tmp_path / "a:b"))
    assert is_checkpoint("base.safetensors")
    assert not is_checkpoint("timm:resnet18")
