"""ONNX files: the same bytes every time, and one structure for all weights."""

import gc
import hashlib
import subprocess
import sys

import onnx
import pytest
import torch
from torch import nn

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.onnx_file import to_onnx, with_weights
from bandstop.export.spec import ExportSpec, signature
from tests.networks import tiny
from tests.releases import base, gate_edit

BAKED = ExportSpec("baked")
CODE = """
import hashlib
from bandstop.edit.batchnorm import fold_batchnorm
from tests.releases import base
from tests.test_export_onnx_file import gated
print(hashlib.sha256(gated(fold_batchnorm(base()))).hexdigest())
"""


def plain(model: Classifier) -> bytes:
    inputs, outputs = signature(BAKED, model.preprocess, model.num_classes)
    return to_onnx(PlainGraph(model, BAKED), inputs, outputs)


def gated(model: Classifier) -> bytes:
    spec = ExportSpec("gated", forget_slots=2)
    inputs, outputs = signature(spec, model.preprocess, model.num_classes)
    return to_onnx(GatedGraph(model, gate_edit(model), spec), inputs, outputs)


@pytest.fixture(scope="module")
def file() -> bytes:
    return plain(fold_batchnorm(base()))


def test_a_fresh_process_makes_the_same_bytes_and_says_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == [hashlib.sha256(gated(fold_batchnorm(base()))).hexdigest()]


def test_refilling_gives_the_bytes_of_an_export(file: bytes) -> None:
    other = fold_batchnorm(base(seed=1))
    refilled = with_weights(file, PlainGraph(other, BAKED))
    assert refilled == plain(other)
    assert refilled != file


@pytest.mark.parametrize("collected", [True, False])
def test_the_collector_is_left_as_it_was(collected: bool) -> None:
    (gc.enable if collected else gc.disable)()
    try:
        with pytest.raises(RuntimeError):
            to_onnx(PlainGraph(fold_batchnorm(base()), BAKED), [], [])  # traced without its input
        assert gc.isenabled() == collected
    finally:
        gc.enable()


def test_no_cycles_are_collected_while_the_graph_is_traced() -> None:
    collected: list[str] = []
    gc.callbacks.append(lambda phase, _: collected.append(phase))
    try:
        plain(fold_batchnorm(base()))
    finally:
        gc.callbacks.pop()
    assert collected.count("start") < 10  # folding and writing; 100 with the collector on


def test_equal_weights_are_kept_apart(file: bytes) -> None:
    model = fold_batchnorm(base())
    for module in model.network.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros_like(module.bias))  # type: ignore[arg-type]  # folded, so there is one
    assert with_weights(file, PlainGraph(model, BAKED)) == plain(model)
    names = {i.name for i in onnx.load_model_from_string(file).graph.initializer}
    assert set(model.network.state_dict()) <= names


def test_another_network_does_not_fit(file: bytes) -> None:
    assert with_weights(file, PlainGraph(fold_batchnorm(tiny()), BAKED)) is None
