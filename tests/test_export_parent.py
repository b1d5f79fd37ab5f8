"""A baked release holds no edited tensor as it was before; and says by which digests."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bandstop.cli.main import main
from bandstop.edit.artifact import load_artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.edits import fold
from bandstop.edit.parent import parent_tensors
from bandstop.edit.storage import canonical_json, tensor_sha256
from bandstop.export.errors import GraphNotAllowed
from bandstop.export.parent import in_parent_form, refuse_parent_form
from bandstop.export.record import record_bytes
from bandstop.export.record_files import Release, load_release
from bandstop.export.release import export_release
from bandstop.export.release_graph import graph_of
from bandstop.export.spec import ExportSpec
from bandstop.export.verify import verify
from tests.releases import base, gate_edit, gates_artifact, release_folder, weights_artifact

SPEC = ExportSpec("baked", max_batch_size=8)


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("baked")
    return export_release(weights_artifact(folder / "artifact"), SPEC, folder / "release")


def test_only_what_changed_is_recorded_by_its_numbers_before() -> None:
    before = {"a": torch.zeros(2), "b": torch.ones(3), "c": torch.arange(4.0)}
    after = {"a": torch.zeros(2), "b": torch.ones(3) * 2, "c": torch.arange(4.0)}
    assert parent_tensors(before, after) == {"b": tensor_sha256(torch.ones(3))}


def test_an_artifact_and_its_release_tell_the_digests_of_the_parent(baked: Release) -> None:
    folded = fold_batchnorm(base()).network.state_dict()
    wanted = {"fc.weight": tensor_sha256(folded["fc.weight"])}
    manifest = load_artifact(baked.path.parent / "artifact").manifest
    assert manifest.parent_tensors == wanted
    assert baked.record.parent_tensors == wanted
    assert load_release(baked.path) == baked


def test_what_masks_baked_in_change_is_recorded_too() -> None:
    model = fold_batchnorm(base())
    gates = gate_edit(model)
    _, changed = graph_of(model, gates, ExportSpec("baked", forget=(1,)))
    state = model.network.state_dict()
    after = fold(state, gates, (1,))
    assert changed == parent_tensors(state, after)
    assert set(changed or {}) == set(gates.masks)
    unfolded = graph_of(base(), None, ExportSpec("baked"))[1]
    assert unfolded is None
    assert graph_of(model, gates, ExportSpec("gated"))[1] is None


def test_an_artifact_from_before_these_digests_is_read(tmp_path: Path) -> None:
    weights_artifact(tmp_path / "artifact")
    file = tmp_path / "artifact" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["parent_tensors"]
    file.write_bytes(canonical_json(manifest))
    assert load_artifact(tmp_path / "artifact").manifest.parent_tensors is None
    gates = gates_artifact(tmp_path / "gates")
    assert gates.manifest.parent_tensors is None


def file_of(**tensors: list[float]) -> bytes:
    model = onnx.ModelProto()
    for name, value in tensors.items():
        array = np.array(value, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return bytes(model.SerializeToString())


def test_a_tensor_in_its_parent_form_is_named() -> None:
    parent = {n: tensor_sha256(torch.tensor([v, v])) for n, v in (("a", 1.0), ("b", 2.0))}
    refuse_parent_form(file_of(a=[1, 1.5], b=[2, 2.5], c=[1, 1]), parent)
    with pytest.raises(GraphNotAllowed, match="not allowed: b: is as it was before") as caught:
        refuse_parent_form(file_of(a=[1, 1.5], b=[2, 2]), parent)
    assert caught.value.exit_code == 5
    both = onnx.load_model_from_string(file_of(a=[1, 1], b=[2, 2]))
    assert len(list(in_parent_form(both, parent))) == 2


def test_an_artifact_whose_edit_was_undone_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = weights_artifact(tmp_path / "artifact")
    file = tmp_path / "artifact" / "manifest.json"
    manifest = json.loads(file.read_text())
    now = artifact.model.network.state_dict()["fc.weight"]
    manifest["parent_tensors"] = {"fc.weight": tensor_sha256(now)}
    file.write_bytes(canonical_json(manifest))
    argv = ["export", str(tmp_path / "artifact"), "--mode", "baked"]
    assert main([*argv, "--out", str(tmp_path / "release")]) == 5
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == "error: the graph is not allowed: fc.weight: is as it was before the edit"
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_verify_names_a_tensor_in_its_parent_form(baked: Release, tmp_path: Path) -> None:
    report = verify(baked.path)
    assert report.exit_code == 0
    file = (baked.path / "model.onnx").read_bytes()
    folder = release_folder(tmp_path / "release", file)
    weights = {
        i.name: numpy_helper.to_array(i)
        for i in onnx.load_model_from_string(file).graph.initializer
    }
    digest = tensor_sha256(torch.from_numpy(weights["fc.weight"].copy()))
    lie = baked.record.model_copy(update={"parent_tensors": {"fc.weight": digest}})
    for name in ("config.pbtxt", "labels.txt"):
        (folder / name).write_bytes((baked.path / name).read_bytes())
    (folder / "release.json").write_bytes(record_bytes(lie))
    misfits = list(verify(folder).misfits)
    assert misfits == [("graph", "fc.weight: is as it was before the edit")]
