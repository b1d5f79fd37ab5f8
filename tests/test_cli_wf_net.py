"""`bandstop unlearn wf-net` and the gated export of it, for sets of classes and a Transformer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from bandstop.cli.main import main
from bandstop.edit.artifact import load_artifact
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch, ArchArg
from bandstop.edit.data import load_data
from bandstop.edit.edits import fold
from bandstop.edit.gates import gateable
from bandstop.edit.train import Recipe, train
from bandstop.export.record_files import load_release

DATA = load_data("digits", seed=3)
CONV = Recipe(epochs=3, batch=32, lr=0.1, shift=1, flip=False)
ADAMW = Recipe(epochs=8, batch=32, optimizer="adamw", lr=3e-3, shift=0, flip=False)


@dataclass(frozen=True, slots=True)
class Case:
    """A small network, and what its masks are asked to be."""

    arch: str
    args: Mapping[str, ArchArg]
    recipe: Recipe
    settings: tuple[str, ...]
    folded: bool | str


CASES = {
    "vit": Case("bandstop:vit", {"patch": 4, "dim": 24, "depth": 2, "heads": 2}, ADAMW, (), True),
    "resnet as in the paper": Case(
        "bandstop:resnet", {"width": 8, "blocks": "1-1"}, CONV, ("bn=frozen",), "apart"
    ),
    "resnet whose statistics adapt": Case(
        "bandstop:resnet", {"width": 8, "blocks": "1-1"}, CONV, ("bn=adapt", "steps=120"), "apart"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_request_forgets_two_classes_of_an_exported_network(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    base = tmp_path / "base.safetensors"
    model = train(Arch(case.arch, case.args), DATA, case.recipe, seed=3)
    save_checkpoint(base, model, seed=3)
    chosen = ("steps=60", "batch=64", "lr=0.3", "set_size=2", *case.settings)
    settings = [part for setting in chosen for part in ("--set", setting)]
    argv = ["unlearn", "wf-net", "--model", str(base), "--data", "digits", *settings]
    assert main([*argv, "--out", str(tmp_path / "masks")]) == 0, capsys.readouterr().err
    artifact = load_artifact(tmp_path / "masks")
    assert artifact.manifest.params["set_size"] == 2
    assert artifact.gates is not None
    assert artifact.model.bn_folded == case.folded
    assert artifact.gates.masks.keys() == gateable(artifact.model.network).keys()
    capsys.readouterr()
    argv = ["export", str(tmp_path / "masks"), "--mode", "gated", "--forget-slots", "2", "--json"]
    assert main([*argv, "--out", str(tmp_path / "release")]) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    assert told["parity_max_abs"] <= 1e-4
    assert load_release(tmp_path / "release").record.forget.slots == 2

    image = next(DATA.test.batches(8))[0]
    asked = np.array([[3, 7], [7, 3], [0, 0], [1, 2]] * 2)
    session = ort.InferenceSession(
        (tmp_path / "release" / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    logits, applied = session.run(None, {"image": image.numpy(), "forget_class": asked})
    assert np.array_equal(applied, asked)
    for i, row in enumerate(asked.tolist()):
        state = fold(artifact.model.network.state_dict(), artifact.gates, row)
        alone = load_artifact(tmp_path / "masks").model
        alone.network.load_state_dict(state)
        with torch.no_grad():
            assert logits[i] == pytest.approx(alone(image[i : i + 1])[0].numpy(), abs=1e-4)
