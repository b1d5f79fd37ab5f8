"""Every rule for served graphs refuses what breaks it, and nothing else."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bandstop.export.errors import GraphNotAllowed
from bandstop.export.record import TensorRecord
from bandstop.export.rules import check_graph, violations

BAKED = """
<ir_version: 10, opset_import: ["" : 18]>
classifier (float[N, 3] image) => (float[N, 4] logits)
<float[4, 3] weight = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[4] bias = {0, 0, 0, 0}>
{
    logits = Gemm <transB = 1> (image, weight, bias)
}
"""
GATED = """
<ir_version: 10, opset_import: ["" : 18]>
classifier (float[N, 4] image, int64[N, 1] forget_class)
    => (float[N, 4] logits, int64[N, 1] applied_forget_class)
<float[4, 4] table = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, int64[1] axis = {1}>
{
    row = Gather (table, forget_class)
    mask = Squeeze (row, axis)
    logits = Mul (image, mask)
    applied_forget_class = Identity (forget_class)
}
"""
IMAGE = TensorRecord(name="image", dtype="FP32", shape=[3])
WIDE_IMAGE = TensorRecord(name="image", dtype="FP32", shape=[4])
ASKED = TensorRecord(name="forget_class", dtype="INT64", shape=[1])
LOGITS = TensorRecord(name="logits", dtype="FP32", shape=[4])
APPLIED = TensorRecord(name="applied_forget_class", dtype="INT64", shape=[1])

Change = Callable[[onnx.ModelProto], object]


def baked() -> onnx.ModelProto:
    return onnx.parser.parse_model(BAKED)


def gated() -> onnx.ModelProto:
    return onnx.parser.parse_model(GATED)


def test_a_plain_and_a_gated_graph_are_allowed() -> None:
    assert violations(baked(), [IMAGE], [LOGITS]) == []
    assert violations(gated(), [WIDE_IMAGE, ASKED], [LOGITS, APPLIED]) == []


def replace_weight(model: onnx.ModelProto, value: float) -> None:
    weights = np.full((4, 3), value, dtype=np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weight"))


def external(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")


def batchnorm(mean: float) -> Change:
    def insert(model: onnx.ModelProto) -> None:
        values = {"scale": 1.0, "shift": 0.0, "mean": mean, "var": 1.0}
        for name, value in values.items():
            tensor = numpy_helper.from_array(np.full(4, value, dtype=np.float32), name)
            model.graph.initializer.append(tensor)
        model.graph.node[0].output[0] = "raw"
        node = helper.make_node("BatchNormalization", ["raw", *values], ["logits"], name="bn")
        model.graph.node.append(node)

    return insert


def add_weight(model: onnx.ModelProto, name: str = "left", columns: int = 5) -> None:
    value = np.ones((4, columns), dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(value, name))


def constant_node(value: float) -> Change:
    def insert(model: onnx.ModelProto) -> None:
        model.graph.node[0].output[0] = "raw"
        tensor = numpy_helper.from_array(np.array([value], dtype=np.float32))
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
        model.graph.node.append(helper.make_node("Add", ["raw", "c"], ["logits"]))

    return insert


def masks_left(model: onnx.ModelProto) -> None:
    add_weight(model, "masks", columns=4)
    row = numpy_helper.from_array(np.array(1), "row")
    model.graph.initializer.append(row)
    model.graph.node[0].output[0] = "raw"
    model.graph.node.append(helper.make_node("Gather", ["masks", "row"], ["mask"]))
    model.graph.node.append(helper.make_node("Mul", ["raw", "mask"], ["logits"]))


def set_node(op: str, domain: str = "") -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = op
        model.graph.node[0].domain = domain

    return change


def dim(index: int, **size: int | str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        shape = model.graph.input[0].type.tensor_type.shape
        shape.dim[index].CopyFrom(onnx.TensorShapeProto.Dimension(**size))  # type: ignore[arg-type]  # either field

    return change


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    made = helper.make_function("local", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 18)])
    model.functions.append(made)


def hidden_original(model: onnx.ModelProto) -> None:
    add_weight(model, "original", columns=3)
    model.graph.node.insert(0, helper.make_node("Identity", ["original"], ["kept"], name="hide"))


def size_of_a_request(op: str, *inputs: str) -> Change:
    """Let the numbers in the image say how large something gets."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].output[0] = "raw"
        for node in (
            helper.make_node("Cast", ["raw"], ["numbers"], to=TensorProto.INT64),
            helper.make_node("Identity", ["numbers"], ["size"]),
            helper.make_node(op, list(inputs), ["logits"], name="large"),
        ):
            model.graph.node.append(node)

    return change


def hidden_in(node_field: str) -> Change:
    """Put external data where a graph inside a node, or a list of tensors, would hold it."""

    def change(model: onnx.ModelProto) -> None:
        attribute = model.graph.node[0].attribute.add(name="extra")
        places = {
            "g": attribute.g.initializer,
            "graphs": attribute.graphs,
            "tensors": attribute.tensors,
            "sparse": [attribute.sparse_tensor.values],
        }
        tensor = places[node_field]
        inner = tensor.add() if hasattr(tensor, "add") else tensor[0]
        (inner.initializer.add() if node_field == "graphs" else inner).external_data.add(key="k")

    return change


def batchnorm_of_a_file(model: onnx.ModelProto) -> None:
    """Put external data where it is looked at first of all values."""
    batchnorm(0.0)(model)
    mean = next(i for i in model.graph.initializer if i.name == "mean")
    mean.ClearField("raw_data")
    mean.data_location = TensorProto.EXTERNAL
    mean.external_data.add(key="location", value="secret")


REFUSED: dict[str, tuple[Change, str]] = {
    "external statistics": (batchnorm_of_a_file, "mean: external data is not allowed"),
    "external data in a graph inside": (hidden_in("g"), "external data is not allowed"),
    "external data in graphs inside": (hidden_in("graphs"), "external data is not allowed"),
    "external data in a list": (hidden_in("tensors"), "external data is not allowed"),
    "external data of sparse values": (hidden_in("sparse"), "external data is not allowed"),
    "hidden weights": (hidden_original, "hide: computes what nothing reads"),
    "size of a constant": (size_of_a_request("ConstantOfShape", "size"), "size from a request"),
    "size of an expansion": (size_of_a_request("Expand", "bias", "size"), "size from a request"),
    "fewer statistics": (
        lambda m: (batchnorm(0.0)(m), m.graph.node[1].input.pop()),
        "bn: BatchNormalization holds statistics",
    ),
    "type that is none": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99),
        "type 99, expected FP32",
    ),
    "producer": (lambda m: setattr(m, "producer_name", "host-7"), "the model carries metadata"),
    "attribute's metadata": (
        lambda m: setattr(m.graph.node[0].attribute[0], "doc_string", "/home/me"),
        "carries metadata",
    ),
    "new ir": (lambda m: setattr(m, "ir_version", 11), "IR version 11"),
    "no ir": (lambda m: setattr(m, "ir_version", 0), "IR version 0"),
    "other opset": (lambda m: setattr(m.opset_import[0], "version", 20), "operator sets"),
    "custom domain": (lambda m: m.opset_import.add(domain="my", version=1), "operator sets"),
    "function": (function, "function f"),
    "training": (lambda m: m.training_info.add(), "training information"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "control flow": (set_node("Loop"), "operator Loop is not on the list"),
    "randomness": (set_node("RandomNormalLike"), "RandomNormalLike is not on the list"),
    "own operator": (set_node("FusedGemm", "com.microsoft"), "com.microsoft.FusedGemm"),
    "statistics": (batchnorm(0.5), "bn: BatchNormalization holds statistics"),
    "external data": (external, "external data"),
    "nan": (lambda m: replace_weight(m, float("nan")), "weight: holds NaN or infinity"),
    "minus infinity": (lambda m: replace_weight(m, float("-inf")), "weight: holds NaN or inf"),
    "infinite constant": (constant_node(float("-inf")), "holds NaN or infinity"),
    "unused weight": (add_weight, "left: stored or asked for but never used"),
    "weight twice": (lambda m: add_weight(m, "weight"), "weight: stored twice"),
    "gates left": (masks_left, "masks: has the shape of gates"),
    "fixed batch": (dim(0, dim_value=1), "shape [1, 3], expected ['N', 3]"),
    "free width": (dim(1, dim_param="W"), "shape ['N', 'W'], expected ['N', 3]"),
    "half precision": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        "type FLOAT16, expected FP32",
    ),
    "other name": (lambda m: setattr(m.graph.input[0], "name", "pixels"), "inputs ['pixels']"),
    "leaking output": (
        lambda m: m.graph.output.append(
            helper.make_tensor_value_info("raw", TensorProto.FLOAT, ["N", 4])
        ),
        "outputs ['logits', 'raw']",
    ),
    "producer's version": (lambda m: setattr(m, "producer_version", "1"), "metadata"),
    "model's metadata": (lambda m: m.metadata_props.add(key="host", value="h"), "metadata"),
    "node's metadata": (
        lambda m: m.graph.node[0].metadata_props.add(key="stack", value="/home/me"),
        "carries metadata",
    ),
    "doc string": (lambda m: setattr(m.graph.node[0], "doc_string", "/home/me"), "metadata"),
    "not onnx": (lambda m: m.graph.node[0].input.append("nowhere"), "not valid ONNX"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_graph_that_breaks_a_rule_is_refused(case: str) -> None:
    change, said = REFUSED[case]
    model = baked()
    change(model)
    broken = violations(model, [IMAGE], [LOGITS])
    assert any(said in line for line in broken), broken


@pytest.mark.parametrize("change", [external, batchnorm_of_a_file, hidden_in("g")])
def test_no_value_is_read_of_a_graph_with_external_data(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: object) -> None:
        raise AssertionError

    model = baked()
    change(model)
    monkeypatch.setattr(numpy_helper, "to_array", read)
    with pytest.raises(GraphNotAllowed, match="external data") as caught:
        check_graph(model.SerializeToString(), [IMAGE], [LOGITS])
    assert caught.value.exit_code == 5


def test_a_size_that_is_the_batchs_is_allowed() -> None:
    model = baked()
    model.graph.node[0].output[0] = "raw"
    for node in (
        helper.make_node("Shape", ["raw"], ["size"]),
        helper.make_node("Reshape", ["raw", "size"], ["logits"]),
    ):
        model.graph.node.append(node)
    assert violations(model, [IMAGE], [LOGITS]) == []


def test_a_batchnorm_that_only_scales_is_allowed() -> None:
    model = baked()
    batchnorm(0.0)(model)
    assert violations(model, [IMAGE], [LOGITS]) == []


def test_only_a_gated_graph_may_hold_the_one_nan() -> None:
    for model, inputs, outputs, allowed in (
        (gated(), [WIDE_IMAGE, ASKED], [LOGITS, APPLIED], True),
        (baked(), [IMAGE], [LOGITS], False),
    ):
        nan = numpy_helper.from_array(np.array(np.nan, dtype=np.float32), "gates.refused")
        model.graph.initializer.append(nan)
        model.graph.node[-1].output[0] += "_raw"
        name = model.graph.node[-1].output[0]
        if allowed:
            model.graph.node[2].output[0] = "raw"
            model.graph.node[-1].output[0] = "applied_forget_class"
            model.graph.node.append(helper.make_node("Add", ["raw", nan.name], ["logits"]))
        else:
            model.graph.node.append(helper.make_node("Add", [name, nan.name], ["logits"]))
        assert (violations(model, inputs, outputs) == []) is allowed


def test_all_violations_come_in_one_error() -> None:
    model = baked()
    replace_weight(model, float("inf"))
    add_weight(model)
    with pytest.raises(GraphNotAllowed, match=r"weight: holds.*left: stored") as caught:
        check_graph(model.SerializeToString(), [IMAGE], [LOGITS])
    assert caught.value.exit_code == 5
