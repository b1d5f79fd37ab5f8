"""Masked logits of what is always forgotten: off in the file and in PyTorch, and said so."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from bandstop.cli.main import main
from bandstop.edit.baselines.logit_mask import OFF
from bandstop.edit.batchnorm import example
from bandstop.edit.errors import InputError
from bandstop.export.parity import masked_logits
from bandstop.export.record import record_bytes
from bandstop.export.record_files import Release, load_release
from bandstop.export.release_graph import with_masked_logits
from bandstop.export.spec import ExportSpec
from bandstop.export.verify import verify
from tests.networks import classifier, tiny
from tests.releases import CLASSES, gates_artifact
from tests.whole_releases import whole_release

ALWAYS = (1, 3)
OPTIONS = ["--mode", "gated", "--always-forget", "dog,bird", "--max-batch-size", "8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    gates_artifact(folder / "artifact")
    return folder


def exported(place: Path, name: str, *more: str) -> Release:
    argv = ["export", str(place / "artifact"), *OPTIONS, *more, "--out", str(place / name)]
    assert main(argv) == 0
    return load_release(place / name)


@pytest.fixture(scope="module")
def masked(place: Path) -> Release:
    return exported(place, "masked", "--mask-logits")


def test_the_logits_are_off_in_every_row_and_all_others_stay(place: Path, masked: Release) -> None:
    artifact = gates_artifact(place / "again")
    image = example(artifact.model, 8)
    rows = np.array([[i % len(CLASSES)] for i in range(8)], dtype=np.int64)
    runs = ort.InferenceSession(
        (masked.path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    logits = runs.run(["logits"], {"image": image.numpy(), "forget_class": rows})[0]
    assert (logits[:, list(ALWAYS)] == OFF).all()
    for i, (row,) in enumerate(rows.tolist()):
        forget = sorted({row, *ALWAYS})
        wanted = masked_logits(artifact.model, artifact.gates, forget, image[i : i + 1])[0]
        assert logits[i, [0, 2]] == pytest.approx(wanted[[0, 2]].numpy(), abs=1e-4)


def test_the_release_says_so_and_keeps_the_names(masked: Release) -> None:
    told = masked.record.forget
    assert (told.always, told.masked_logits) == ([1, 3], [1, 3])
    assert masked.record.class_names == list(CLASSES)
    assert json.loads((masked.path / "release.json").read_text())["forget"]["masked_logits"] == [
        1,
        3,
    ]
    assert masked.record.parity.max_abs <= 1e-4
    assert main(["verify", str(masked.path)]) == 0


def test_without_the_option_nothing_is_off(place: Path, masked: Release) -> None:
    plain = exported(place, "plain").record
    assert plain.forget.masked_logits == []
    assert plain.files["model.onnx"] != masked.record.files["model.onnx"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "gated"], "mask_logits: only of classes in always_forget"),
        (["--mode", "baked", "--forget", "dog"], "mask_logits: only for gated"),
    ],
)
def test_it_is_for_what_is_always_forgotten_only(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    argv = ["export", str(place / "artifact"), *arguments, "--mask-logits"]
    assert main([*argv, "--out", str(place / "refused")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (place / "refused").exists()


def test_a_network_without_a_bias_a_class_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))
    spec = ExportSpec("gated", always_forget=(1,), mask_logits=True)
    with pytest.raises(InputError, match="needs a bias a class"):
        with_masked_logits(classifier(network), spec)


def test_the_network_given_is_left_as_it_was() -> None:
    model = tiny()
    before = model.network.state_dict()["fc.bias"].clone()
    spec = ExportSpec("gated", always_forget=(1,), mask_logits=True)
    assert with_masked_logits(model, spec).network.state_dict()["fc.bias"][1] == OFF
    assert torch.equal(model.network.state_dict()["fc.bias"], before)
    assert with_masked_logits(model, ExportSpec("gated", always_forget=(1,))) is model


def test_masked_logits_of_what_is_not_always_forgotten_do_not_verify(tmp_path: Path) -> None:
    folder = whole_release(tmp_path / "release", "gated")
    facts = load_release(folder).record
    lie = facts.forget.model_copy(update={"always": [1], "masked_logits": [1, 2]})
    (folder / "release.json").write_bytes(record_bytes(facts.model_copy(update={"forget": lie})))
    assert list(verify(folder).misfits) == [
        ("classes", "masks the logits of [2], which are not always forgotten")
    ]
