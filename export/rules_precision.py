"""The rules for graphs of lower precision: what they may hold besides, and where."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, numpy_helper

from bandstop.export.precision_record import Precision
from bandstop.export.rules_tensors import REFUSED

MORE_OPS: Mapping[Precision, frozenset[str]] = {
    "float32": frozenset(),
    "fp16": frozenset(),
    "int8": frozenset({"QuantizeLinear", "DequantizeLinear"}),
}


def imprecise(graph: onnx.GraphProto, precision: Precision) -> Iterator[str]:
    """Tell where `graph` is not of the `precision` that it should be, or loses its refusals."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ops = {node.op_type for node in graph.node}
    if precision == "int8" and not MORE_OPS["int8"] <= ops:
        yield "no layer is quantised, expected int8"
    halves = {tensor.data_type for tensor in graph.initializer} & {TensorProto.FLOAT16}
    if precision == "fp16" and not halves:
        yield "no weight is FLOAT16, expected fp16"
    for node in graph.node:
        if node.op_type in MORE_OPS["int8"]:
            yield from _parameters(node, constants)
    yield from _refusals(graph)


def _parameters(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> Iterator[str]:
    """Tell what is wrong with a scale or zero point: a request may not change them."""
    named = node.name or node.op_type
    if len(node.input) < 2:
        yield f"{named}: has no scale"
    elif not all(name in constants for name in node.input[1:]):
        yield f"{named}: scale or zero point is not a constant"
    elif not (numpy_helper.to_array(constants[node.input[1]]) > 0).all():
        yield f"{named}: scale is not above zero"


def _refusals(graph: onnx.GraphProto) -> Iterator[str]:
    """Name what stands behind the refusal and could turn its NaN into a number."""
    after = {REFUSED}
    for node in graph.node:
        if after.isdisjoint(node.input):
            continue
        after.update(node.output)
        if node.op_type in ("Cast", *MORE_OPS["int8"]):
            yield f"{node.name or node.op_type}: {node.op_type} behind the refusal of rows"
