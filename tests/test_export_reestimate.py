"""New BatchNorm statistics in a file: what they bring back, and that a file of ours has none."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from bandstop.bench.__main__ import main
from bandstop.edit.accuracy import forget_and_retain
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.checkpoint import load_checkpoint, save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.evaluation.bn_reestimate import reestimated as network_reestimated
from bandstop.edit.train import CHARACTERS, train, without_classes
from bandstop.export.graph import PlainGraph
from bandstop.export.reestimate import file_logits, reestimated
from bandstop.export.release import release_classifier
from bandstop.export.spec import ExportSpec
from tests.masked_batchnorm import CASE, OTHERS, accuracies, masked


@functools.cache
def careless() -> bytes:
    """Return a file of the network whose class is masked before its BatchNorms, left in."""
    graph = PlainGraph(masked("frozen"), ExportSpec("original")).eval()
    image = example(masked("frozen"), 2)
    program = torch.onnx.export(
        graph,
        (image,),
        dynamo=True,
        optimize=False,  # which would fold them
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
    )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def of_file(file: bytes) -> tuple[float, float]:
    answers = file_logits(file, CASE.test).argmax(1)
    return forget_and_retain(answers, CASE.test.labels, [2])


def test_a_file_with_batchnorm_left_in_gives_the_class_back() -> None:
    assert of_file(careless()) == pytest.approx(accuracies(masked("frozen")))
    attacked, norms = reestimated(careless(), OTHERS)
    assert norms >= 2
    forgotten, retained = of_file(attacked)
    assert forgotten > 0.9
    assert retained > 0.9


def test_statistics_are_those_that_the_network_itself_would_take() -> None:
    """One batch of 64, so that averages over batches are those over images."""
    images = OTHERS.take(torch.arange(64))
    attacked, _ = reestimated(careless(), images)
    model = onnx.load_model_from_string(attacked)
    held = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    found = [
        held[node.input[3]] for node in model.graph.node if node.op_type == "BatchNormalization"
    ]
    network = network_reestimated(masked("frozen"), images).network
    wanted = [value for name, value in network.named_buffers() if name.endswith("running_mean")]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine.copy()), theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("input_kind", ["float32", "uint8"])
def test_a_release_has_no_statistics_to_take_anew(input_kind: str, tmp_path: Path) -> None:
    spec = ExportSpec("original", input=input_kind)  # type: ignore[arg-type]  # of the two
    release = release_classifier(folded(), spec, tmp_path / "release")
    file = (release.path / "model.onnx").read_bytes()
    attacked, norms = reestimated(file, OTHERS)
    assert (attacked, norms) == (file, 0)
    assert of_file(attacked) == pytest.approx(accuracies(folded()), abs=0.02)  # 8 bits a pixel


def folded() -> Classifier:
    return fold_batchnorm(masked("frozen"))


def test_the_table_has_the_file_and_the_retrained_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("digits")
    arch = Arch("bandstop:resnet", {"width": 8, "blocks": "1"})
    recipe = replace(CHARACTERS, epochs=8)
    for name, gone in (("base", ()), ("never", (4,))):
        model = train(arch, without_classes(data, gone), recipe, seed=0)
        save_checkpoint(tmp_path / name, model, seed=0, without=gone)
    base = load_checkpoint(tmp_path / "base")
    release_classifier(base, ExportSpec("original"), tmp_path / "release")
    asked = ["--data", "digits", "--forget", "4", "--retrained", str(tmp_path / "never")]
    argv = ["reestimate", str(tmp_path / "release"), *asked]
    assert main([*argv, "--json"]) == 0
    mine, never = json.loads(capsys.readouterr().out)
    assert mine["norms"] == 0
    assert mine["forget_before"] == mine["forget_after"] > 0.5
    assert (never["norms"], never["forget_before"], never["forget_after"]) == (None, 0.0, 0.0)
    assert main(argv) == 0
    assert "BatchNorm" in capsys.readouterr().out
    assert main(["reestimate", str(tmp_path / "nothing"), *asked]) == 2
    assert "cannot be read" in capsys.readouterr().err
