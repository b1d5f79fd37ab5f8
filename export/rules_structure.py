"""The rules for how a graph is built: nothing unused or without effect, no metadata."""

import math
from collections.abc import Iterator

import onnx
from onnx import numpy_helper


def unused(graph: onnx.GraphProto) -> Iterator[str]:
    """Name what is stored, asked for or computed and has no effect, or is stored twice."""
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    names = [i.name for i in graph.initializer]
    for name in sorted({n for n in names if names.count(n) > 1}, key=str):
        yield f"{name}: stored twice"
    for name in (*names, *(i.name for i in graph.input)):
        if name not in read:
            yield f"{name}: stored or asked for but never used"
    needed = {o.name for o in graph.output}
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            yield f"{node.name or node.op_type}: computes what nothing reads"
        needed.update(node.input)
    zeros = {i.name for i in graph.initializer if _is_zero(i)}
    for node in graph.node:
        if node.op_type == "Mul" and not zeros.isdisjoint(node.input):
            yield f"{node.name or node.op_type}: multiplies by 0, which hides what it reads"


def _is_zero(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) == 1 and not numpy_helper.to_array(tensor).any()


def metadata(model: onnx.ModelProto) -> Iterator[str]:
    """Name what carries text that no server needs."""
    names = model.producer_name not in ("", "bandstop") or model.producer_version or model.domain
    if model.doc_string or model.metadata_props or names:
        yield "the model carries metadata"
    parts = (
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.graph.initializer,
    )
    for part in parts:
        if part.doc_string or part.metadata_props:
            yield f"{part.name}: carries metadata"
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.doc_string or attribute.t.doc_string or attribute.t.metadata_props:
                yield f"{node.name}.{attribute.name}: carries metadata"
