"""Artifacts: what goes in comes out, and anything else is refused before it is parsed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bandstop.edit import tensors
from bandstop.edit.arch import build
from bandstop.edit.artifact import Artifact, load_artifact, save_artifact
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import Edit, GateEdit, WeightEdit, fold
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.gates import gateable
from bandstop.edit.images import Preprocess
from bandstop.edit.request import ForgetRequest
from bandstop.edit.storage import canonical_json, sha256, state_sha256
from bandstop.edit.svd import SVD

ARCH = Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"})
PREP = Preprocess((8, 8), 1, (0.3,), (0.4,))
NAMES = ("cat", "dog", 'naïve "fish"')


def base() -> Classifier:
    return Classifier(build(ARCH, 3, 1, (8, 8), seed=1), ARCH, PREP, NAMES)


def weight_edit(folded: Classifier) -> WeightEdit:
    weight = folded.network.state_dict()["fc.weight"]
    return WeightEdit({"fc.weight": weight * 0.5}, {"alpha_r": 30.0})


def gate_edit(folded: Classifier) -> GateEdit:
    sizes = gateable(folded.network)
    return GateEdit({n: torch.linspace(0, 1, 3 * c).reshape(3, c) for n, c in sizes.items()})


def save(out: Path, make: Callable[[Classifier], Edit]) -> tuple[Classifier, Edit]:
    parent = base()
    folded = fold_batchnorm(parent)
    edit = make(folded)
    request = ForgetRequest(classes=(1,))
    save_artifact(out, folded, edit, method=SVD(seed=7), request=request, parent=parent)
    return folded, edit


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save(tmp_path / "artifact", weight_edit)
    return tmp_path / "artifact"


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    save(tmp_path / "artifact", gate_edit)
    return tmp_path / "artifact"


def test_a_network_folded_apart_comes_back(tmp_path: Path) -> None:
    parent = base()
    folded = fold_batchnorm(parent, shift="apart")
    edit = gate_edit(folded)
    request = ForgetRequest(classes=(0, 1, 2))
    save_artifact(tmp_path / "a", folded, edit, method=SVD(), request=request, parent=parent)
    back = load_artifact(tmp_path / "a")
    assert back.model.bn_folded == "apart"
    image = example(folded, 3)
    assert torch.equal(back.model(image), folded(image))
    assert back.gates is not None
    assert back.gates.masks.keys() == edit.masks.keys()


def test_an_edited_network_comes_back(tmp_path: Path) -> None:
    folded, edit = save(tmp_path / "a", weight_edit)
    back: Artifact = load_artifact(tmp_path / "a")
    assert back.gates is None
    want = fold(folded.network.state_dict(), edit)
    state = back.model.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in want.items())
    assert back.model.class_names == NAMES
    assert back.model.preprocess == PREP
    assert back.manifest.seed == 7
    assert back.manifest.request.classes == [1]
    assert back.manifest.found == {"alpha_r": 30.0}
    assert back.manifest.parent_sha256 == state_sha256(base().network.state_dict())
    image = example(folded, 3)
    expected = folded.replaced(folded.network)
    expected.network.load_state_dict(want)
    assert torch.equal(back.model(image), expected(image))


def test_gates_come_back_beside_the_untouched_backbone(tmp_path: Path) -> None:
    folded, edit = save(tmp_path / "a", gate_edit)
    back = load_artifact(tmp_path / "a")
    assert isinstance(edit, GateEdit)
    assert back.gates is not None
    assert all(torch.equal(back.gates.masks[n], m) for n, m in edit.masks.items())
    state = back.model.network.state_dict()
    assert all(torch.equal(state[n], v) for n, v in folded.network.state_dict().items())


def test_what_stood_in_for_the_data_is_kept_and_old_manifests_have_no_such_field(
    tmp_path: Path,
) -> None:
    parent = base()
    folded = fold_batchnorm(parent)
    edit, request = weight_edit(folded), ForgetRequest(classes=(1,))
    out = tmp_path / "a"
    save_artifact(
        out, folded, edit, method=SVD(), request=request, parent=parent, stand_in="synthesised"
    )
    assert load_artifact(out).manifest.stand_in == "synthesised"
    manifest = json.loads((out / "manifest.json").read_bytes())
    for later in ("stand_in", "split_seed", "forgotten_before"):
        del manifest[later]
    (out / "manifest.json").write_bytes(canonical_json(manifest))
    assert load_artifact(out).manifest.stand_in is None


def test_the_parents_tensors_are_not_kept_beside_edited_ones(weights: Path) -> None:
    parent = fold_batchnorm(base()).network.state_dict()["fc.weight"].numpy().tobytes()
    assert not any(parent in file.read_bytes() for file in weights.iterdir())


def test_the_same_edit_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, gate_edit)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_an_existing_output_is_refused_and_left_alone(weights: Path) -> None:
    before = {f.name: f.read_bytes() for f in weights.iterdir()}
    with pytest.raises(InputError, match="exists"):
        save(weights, gate_edit)
    assert {f.name: f.read_bytes() for f in weights.iterdir()} == before
    assert [p.name for p in weights.parent.iterdir()] == ["artifact"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path / "a", weight_edit)
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def link(path: Path, elsewhere: Path) -> None:
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def manifest(path: Path, **fields: object) -> None:
    file = path / "manifest.json"
    file.write_bytes(canonical_json(json.loads(file.read_bytes()) | fields))


def swap_model(path: Path, data: bytes) -> None:
    """Put `data` in place of the weights, with a manifest that agrees with it."""
    (path / "model.safetensors").write_bytes(data)
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    files["model.safetensors"] = {"size": len(data), "sha256": sha256(data)}
    manifest(path, files=files)


def state(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_artifact(path).model.network.state_dict())


def twice_named(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    entry = header[1 : header.index(b"}") + 1]
    header = b"{" + entry + b"," + header[1:]
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated weights": (lambda p: cut(p / "model.safetensors"), "bytes, expected"),
    "one bit flipped": (lambda p: flip(p / "model.safetensors"), "digest .* expected"),
    "weights missing": (lambda p: (p / "model.safetensors").unlink(), "missing model.safetensors"),
    "unlisted file": (lambda p: (p / "original.pt").write_bytes(b""), "unlisted file original.pt"),
    "hidden folder": (lambda p: (p / ".git").mkdir(), "unlisted file .git"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "not an artifact"),
    "empty manifest": (lambda p: (p / "manifest.json").write_bytes(b""), "not a valid manifest"),
    "unknown format": (lambda p: manifest(p, format="bandstop-artifact/9"), "format"),
    "unknown field": (lambda p: manifest(p, extra=1), "extra"),
    "wrong type": (lambda p: manifest(p, seed="7"), "seed"),
    "upper-case digest": (lambda p: manifest(p, parent_sha256="A" * 64), "parent_sha256"),
    "wrong number of classes": (lambda p: manifest(p, class_names=["a", "b"]), "fc.weight"),
    "unknown network": (
        lambda p: manifest(p, arch={"name": "bandstop:none", "args": {}}),
        "bandstop:none",
    ),
    "a file of another kind": (
        lambda p: manifest(p, kind="gates"),
        r"expected \['gates.safetensors', 'model.safetensors'\]",
    ),
    "not safetensors": (lambda p: swap_model(p, b"PK\x03\x04 a zip of pickles"), "truncated"),
    "tensor of NaN": (
        lambda p: swap_model(p, tensors.dump(state(p) | {"fc.bias": torch.full((3,), torch.nan)})),
        "fc.bias: holds NaN",
    ),
    "tensor too many": (
        lambda p: swap_model(p, tensors.dump(state(p) | {"smuggled": torch.zeros(1)})),
        "'smuggled': not expected",
    ),
    "transposed tensor": (
        lambda p: swap_model(p, tensors.dump(state(p) | {"fc.weight": torch.zeros(8, 3)})),
        r"fc.weight: expected torch.float32 \(3, 8\), got torch.float32 \(8, 3\)",
    ),
    "tensor named twice": (
        lambda p: swap_model(p, twice_named((p / "model.safetensors").read_bytes())),
        "names a tensor twice",
    ),
    "linked weights": (
        lambda p: link(p / "model.safetensors", p.parent / "elsewhere"),
        "not a regular file",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_artifact_is_refused_in_one_line(weights: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    spoil(weights)
    with pytest.raises((ArtifactError, InputError), match=message) as caught:
        load_artifact(weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"conv1.weight": torch.full((3, 4), 1.5)}, r"must lie in \[0, 1\]"),
        ({"conv1.weight": torch.zeros(2, 4)}, r"expected torch.float32 \(3, 4\)"),
        ({"nowhere.weight": torch.zeros(3, 4)}, "unknown parameters"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    gates: Path, masks: dict[str, torch.Tensor], message: str
) -> None:
    data = tensors.dump(masks)
    (gates / "gates.safetensors").write_bytes(data)
    files = json.loads((gates / "manifest.json").read_bytes())["files"]
    manifest(
        gates, files=files | {"gates.safetensors": {"size": len(data), "sha256": sha256(data)}}
    )
    with pytest.raises(ArtifactError, match=message):
        load_artifact(gates)


def test_a_users_own_factory_is_not_imported_unasked(weights: Path) -> None:
    manifest(weights, arch={"name": "os.path:join", "args": {}})
    with pytest.raises((ArtifactError, InputError), match="trust"):
        load_artifact(weights)
