"""A baked file is the original's plain export with other numbers: a drop-in, nothing of masks."""

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit, WeightEdit, edited
from bandstop.edit.gates import gateable
from bandstop.edit.images import Preprocess
from bandstop.export.onnx_file import to_onnx
from bandstop.export.release_graph import graph_of
from bandstop.export.spec import ExportSpec, signature
from tests.networks import lively_, noise

CLASSES = ("cat", "dog", "fish", "bird", "hare")
NETWORKS = {
    "vgg": Arch("bandstop:vgg", {"width": 4}),
    "resnet": Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"}),
    "vit": Arch("bandstop:vit", {"dim": 16, "depth": 1, "heads": 2, "patch": 4}),
}
ORIGINAL = ExportSpec("original", max_batch_size=8)
BAKED = ExportSpec("baked", max_batch_size=8)
A_ROW = ExportSpec("baked", forget=(1, 3), max_batch_size=8)


@cache
def original(name: str) -> Classifier:
    """Return a network as it was trained, its BatchNorm still in place."""
    network = lively_(build(NETWORKS[name], len(CLASSES), 3, (16, 16)))
    prep = Preprocess((16, 16), 3, (0.3, 0.4, 0.5), (0.2, 0.2, 0.3))
    return Classifier(network, NETWORKS[name], prep, CLASSES)


def masks(model: Classifier) -> GateEdit:
    tables = gateable(model.network).items()
    return GateEdit({n: noise(len(CLASSES), width, seed=1).sigmoid() for n, width in tables})


def file_of(model: Classifier, gates: GateEdit | None, spec: ExportSpec) -> onnx.ModelProto:
    graph, _ = graph_of(model, gates, spec)
    inputs, outputs = signature(spec, model.preprocess, model.num_classes)
    return onnx.load_model_from_string(to_onnx(graph, inputs, outputs))


@cache
def plain(name: str) -> onnx.ModelProto:
    return file_of(original(name), None, ORIGINAL)


def every_weight_edited(name: str) -> onnx.ModelProto:
    """Every tensor is another, one of them zero: no value may change the graph."""
    folded = fold_batchnorm(original(name))
    state = folded.network.state_dict()
    changed = {n: v * 0.5 + 0.1 if v.is_floating_point() else v for n, v in state.items()}
    changed[list(state)[-1]] = 0 * state[list(state)[-1]]
    return file_of(edited(folded, WeightEdit(changed)), None, BAKED)


def rows_baked(name: str) -> onnx.ModelProto:
    folded = fold_batchnorm(original(name))
    return file_of(folded, masks(folded), A_ROW)


def rows_baked_before_folding(name: str) -> onnx.ModelProto:
    model = original(name)
    return file_of(model, masks(model), A_ROW)


def structure(model: onnx.ModelProto) -> dict[str, Any]:
    """Return all of a file but the numbers in its weights."""
    graph = model.graph
    return {
        "versions": (model.ir_version, [(o.domain, o.version) for o in model.opset_import]),
        "nodes": [node.SerializeToString(deterministic=True) for node in graph.node],
        "inputs": [value.SerializeToString(deterministic=True) for value in graph.input],
        "outputs": [value.SerializeToString(deterministic=True) for value in graph.output],
        "weights": [(i.name, i.data_type, tuple(i.dims)) for i in graph.initializer],
        "constants": [
            (i.name, numpy_helper.to_array(i).tolist())
            for i in graph.initializer
            if i.name.startswith("constant_")
        ],
        "others": [v.name for v in graph.value_info] + [f.name for f in model.functions],
    }


CASES: list[tuple[str, Callable[[str], onnx.ModelProto]]] = [
    ("vgg", every_weight_edited),
    ("resnet", every_weight_edited),
    ("resnet", rows_baked_before_folding),
    ("vit", rows_baked),
]


@pytest.mark.parametrize(("name", "bake"), CASES)
def test_a_baked_file_has_the_structure_of_the_plain_export(
    name: str, bake: Callable[[str], onnx.ModelProto]
) -> None:
    made, wanted = bake(name), plain(name)
    assert structure(made) == structure(wanted)
    assert made != wanted  # the numbers are others
    text = made.SerializeToString()
    for trace in (b"gate", b"forget", b"mask"):
        assert trace not in text.lower()
    extra = {"Where", "GreaterOrEqual", "Less", "And", "ReduceMin"}
    assert extra.isdisjoint({n.op_type for n in made.graph.node})


def test_the_weights_of_a_plain_export_are_those_of_the_folded_network() -> None:
    for name in ("vgg", "resnet"):
        state = fold_batchnorm(original(name)).network.state_dict()
        there = {i.name: numpy_helper.to_array(i) for i in plain(name).graph.initializer}
        assert {n for n in there if not n.startswith(("constant_", "preprocess."))} == set(state)
        assert all((there[n] == value.numpy()).all() for n, value in state.items())
