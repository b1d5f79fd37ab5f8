"""Releases: complete or not there, the same for the same artifact, refused when touched."""

import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest
import torch

from bandstop.edit.artifact import Artifact, load_artifact, save_artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import Edit
from bandstop.edit.errors import InputError
from bandstop.edit.request import ForgetRequest
from bandstop.edit.storage import sha256, state_sha256
from bandstop.edit.svd import SVD
from bandstop.export import release as releases
from bandstop.export.errors import ParityFailed, ReleaseError, SpecError
from bandstop.export.record_files import Release, load_release
from bandstop.export.release import Options, export_release, release_classifier
from bandstop.export.repository import publish, versions
from bandstop.export.spec import ExportSpec
from tests.releases import (
    CLASSES,
    base,
    gate_edit,
    gates_artifact,
    release_folder,
    weight_edit,
    weights_artifact,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def gates(place: Path) -> Artifact:
    return gates_artifact(place / "gates")


@pytest.fixture(scope="module")
def baked(place: Path, gates: Artifact) -> Release:
    images = torch.full((2, 1, 8, 8), 0.5)
    spec = ExportSpec("baked", forget=(0,), max_batch_size=8)
    return export_release(gates, spec, place / "baked", Options(images=images))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_release_is_complete_and_says_where_it_is_from(
    baked: Release, gates: Artifact, place: Path
) -> None:
    assert sorted(contents(baked.path)) == [
        "config.pbtxt",
        "labels.txt",
        "model.onnx",
        "release.json",
    ]
    assert load_release(baked.path) == baked
    record = baked.record
    assert (record.mode, record.method, record.name) == ("baked", "wf-net", "resnet_baked")
    assert record.forget.classes == [0]
    assert record.class_names == ["", *CLASSES[1:]]
    assert (baked.path / "labels.txt").read_text() == "\n" + "\n".join(CLASSES[1:]) + "\n"
    assert record.parent_sha256 == gates.manifest.parent_sha256
    assert record.artifact_sha256 == sha256((place / "gates" / "manifest.json").read_bytes())
    assert record.parity.max_abs <= record.parity.tolerance
    assert record.parity.images == 10
    text = (baked.path / "release.json").read_text()
    assert str(place) not in text
    assert json.loads(text)["versions"].keys() >= {"torch", "onnx", "onnxruntime"}


def test_a_release_like_another_is_the_same_as_one_from_scratch(
    baked: Release, gates: Artifact, place: Path
) -> None:
    spec = ExportSpec("baked", forget=(1, 3), max_batch_size=8)
    direct = export_release(gates, spec, place / "direct")
    quick = export_release(gates, spec, place / "quick", Options(like=baked))
    assert contents(direct.path) == contents(quick.path)
    assert direct.record.files["model.onnx"] != baked.record.files["model.onnx"]


def test_a_release_unlike_the_other_is_exported_all_the_same(
    baked: Release, gates: Artifact, place: Path
) -> None:
    spec = ExportSpec("gated", max_batch_size=8)
    gated = export_release(gates, spec, place / "gated", Options(like=baked))
    assert gated.record.forget.slots == 1
    assert gated.record.parity.rows == len(CLASSES)


def test_edited_weights_and_the_original_are_drop_ins(place: Path, baked: Release) -> None:
    model = base()
    spec = ExportSpec("original", max_batch_size=8)
    original = release_classifier(model, spec, place / "original", Options(like=baked))
    edited = export_release(
        weights_artifact(place / "weights"),
        ExportSpec("baked", max_batch_size=8),
        place / "edited",
        Options(like=baked),
    )
    assert original.record.parent_sha256 == state_sha256(model.network.state_dict())
    assert original.record.parent_sha256 == edited.record.parent_sha256
    assert (original.record.artifact_sha256, original.record.forget.classes) == (None, [])
    assert edited.record.forget.classes == [2]
    session = ort.InferenceSession(
        (original.path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    image = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (logits,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():  # with its BatchNorm still in place
        assert logits == pytest.approx(model(image).numpy(), abs=1e-4)
    repo = place / "models"
    for release in (original, baked, edited):
        publish(release.path, repo, "pets", override="to compare their graphs")
    found = [(v.version, v.served, v.record and v.record.mode) for v in versions(repo)]
    assert found == [(1, False, "original"), (2, False, "baked"), (3, True, "baked")]


SEQUENTIAL: dict[str, tuple[Callable[[Classifier], Edit], ExportSpec, list[int]]] = {
    "weights": (weight_edit, ExportSpec("baked"), [0, 2]),
    "a row of masks": (gate_edit, ExportSpec("baked", forget=(1,)), [0, 1]),
    "masks": (gate_edit, ExportSpec("gated"), [0]),
}


@pytest.mark.parametrize("case", SEQUENTIAL)
def test_what_earlier_edits_took_out_is_forgotten_too(case: str, tmp_path: Path) -> None:
    make, spec, forgotten = SEQUENTIAL[case]
    parent = base()
    folded = fold_batchnorm(parent)
    request = ForgetRequest((2,))
    save_artifact(
        tmp_path / "second",
        folded,
        make(folded),
        method=SVD(),
        request=request,
        parent=parent,
        forgotten_before=(0,),
    )
    release = export_release(load_artifact(tmp_path / "second"), spec, tmp_path / "release")
    assert release.record.forget.classes == forgotten


def test_nothing_is_written_when_parity_fails(
    gates: Artifact, baked: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = (baked.path / "model.onnx").read_bytes()
    monkeypatch.setattr(releases, "with_weights", lambda _file, _graph: stale)
    spec = ExportSpec("baked", forget=(1,), max_batch_size=8)
    with pytest.raises(ParityFailed):
        export_release(gates, spec, tmp_path / "out", Options(like=baked))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_refused_before_any_work(gates: Artifact, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists"):
        export_release(gates, ExportSpec("gated"), tmp_path / "there")
    with pytest.raises(SpecError, match="name the classes"):
        export_release(gates, ExportSpec("baked"), tmp_path / "out")
    with pytest.raises(SpecError, match="name: expected"):
        export_release(gates, ExportSpec("gated"), tmp_path / "out", Options(name="A b"))
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def relink(file: Path) -> None:
    file.rename(file.with_suffix(".real"))
    file.symlink_to(file.with_suffix(".real").name)


def change_record(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "release.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


TOUCHED: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda f: flip(f / "model.onnx"), "model.onnx: digest .* the file is corrupt"),
    "longer file": (lambda f: (f / "labels.txt").write_text("x" * 99), "99 bytes, expected"),
    "missing file": (lambda f: (f / "model.onnx").unlink(), "missing model.onnx"),
    "unlisted file": (lambda f: (f / "model.onnx.data").touch(), "unlisted file model.onnx.data"),
    "unlisted folder": (lambda f: (f / ".git").mkdir(), "unlisted file .git"),
    "link": (lambda f: relink(f / "config.pbtxt"), "unlisted file config.real"),
    "no record": (lambda f: (f / "release.json").unlink(), "not a release"),
    "broken record": (lambda f: (f / "release.json").write_text("{"), "not a valid release record"),
    "unknown field": (change_record(extra=1), "extra: Extra inputs"),
    "later format": (change_record(format="bandstop-release/2"), "format: Input should be"),
    "path in record": (change_record(files={"../x": {"size": 1, "sha256": "a" * 64}}), "files"),
    "no files": (change_record(files={}), r"lists \[\], expected"),
    "no name": (change_record(name="../x"), "name: String should match"),
}


@pytest.mark.parametrize("case", TOUCHED)
def test_a_release_that_was_touched_is_refused(tmp_path: Path, case: str) -> None:
    touch, said = TOUCHED[case]
    folder = release_folder(tmp_path / "release")
    load_release(folder)
    touch(folder)
    with pytest.raises(ReleaseError, match=said) as caught:
        load_release(folder)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
