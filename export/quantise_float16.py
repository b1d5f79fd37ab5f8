"""An ONNX file that computes in 16-bit floats between its first layer and its logits.

Pixels come in and are normalised in float32; logits go out in float32, and rows are refused behind
the last cast. Class indices stay INT64.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bandstop.export.errors import ExportError
from bandstop.export.rules_tensors import REFUSED

LARGEST = float(np.finfo(np.float16).max)  # 65504
_PIXELS = "preprocess.std"  # the last constant that normalisation reads
_FLOAT32 = {"Resize": (1, 2)}  # inputs that the standard wants in float32 whatever the rest is


def to_float16(file: bytes) -> bytes:
    """Return the ONNX `file` with weights and activations in float16.

    Args:
        file: of float32, as `to_onnx` makes it.

    Raises:
        ExportError: a weight is too large for float16.
    """
    model = onnx.load_model_from_string(file)
    graph = model.graph
    pixels = next(node for node in graph.node if _PIXELS in node.input)
    refuse = next((node for node in graph.node if REFUSED in node.input), None)
    kept = _needed_by(graph, pixels) | ({refuse.output[0]} if refuse else set())
    inside = [node for node in graph.node if node.output[0] not in kept]
    _convert_weights_(graph, inside)
    for node in inside:
        _convert_attributes_(node)
    _convert_hints_(graph, {name for node in inside for name in node.output})
    _cast_in_(graph, pixels, inside)
    _cast_out_(graph, refuse)
    return bytes(model.SerializeToString(deterministic=True))


def _needed_by(graph: onnx.GraphProto, last: onnx.NodeProto) -> set[str]:
    """Return the first outputs of `last` and of all that it needs."""
    makers = {name: node for node in graph.node for name in node.output}
    found, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        found.add(node.output[0])
        waiting += [makers[name] for name in node.input if name in makers]
    return found


def _convert_weights_(graph: onnx.GraphProto, inside: Collection[onnx.NodeProto]) -> None:
    """Store what the nodes `inside` read as float16; what others read too, beside the float32."""
    constants = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    own = {node.output[0] for node in inside}
    shared = {n for node in graph.node if node.output[0] not in own for n in node.input}
    shared |= {
        n for node in inside for i in _FLOAT32.get(node.op_type, ()) for n in node.input[i:][:1]
    }
    small: dict[str, str] = {}
    for node in inside:
        for i, name in enumerate(node.input):
            if name not in constants or i in _FLOAT32.get(node.op_type, ()):
                continue
            if name not in small:
                small[name] = f"{name}.float16" if name in shared else name
                place = graph.initializer.add() if name in shared else constants[name]
                place.CopyFrom(numpy_helper.from_array(_half(constants[name]), small[name]))
            node.input[i] = small[name]


def _half(tensor: TensorProto) -> npt.NDArray[np.float16]:
    value = numpy_helper.to_array(tensor)
    largest = float(np.abs(value).max(initial=0))
    if largest > LARGEST:
        raise ExportError(
            f"fp16: {tensor.name} holds {largest:.6g}, expected at most {LARGEST:g}; "
            "export it as float32"
        )
    return value.astype(np.float16)


def _convert_attributes_(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(_half(attribute.t), attribute.t.name))


def _convert_hints_(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Change the types noted of the values `names`, where any are."""
    for value in graph.value_info:
        if value.name in names and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def _cast_in_(
    graph: onnx.GraphProto, pixels: onnx.NodeProto, inside: Collection[onnx.NodeProto]
) -> None:
    """Cast the normalised image once, right behind the node that makes it."""
    wide, small = pixels.output[0], f"{pixels.output[0]}.float16"
    _reconnect_(inside, wide, small)
    cast = helper.make_node("Cast", [wide], [small], name="cast_in", to=TensorProto.FLOAT16)
    graph.node.insert(list(graph.node).index(pixels) + 1, cast)


def _cast_out_(graph: onnx.GraphProto, refuse: onnx.NodeProto | None) -> None:
    """Cast the logits back: before the node that refuses rows, where there is one."""
    if refuse is None:
        wide = graph.output[0].name
        small, at = f"{wide}.float16", len(graph.node)
        for node in graph.node:
            node.output[:] = [small if name == wide else name for name in node.output]
        _reconnect_(graph.node, wide, small)
    else:
        small = refuse.input[1]
        wide, at = f"{small}.float32", list(graph.node).index(refuse)
        refuse.input[1] = wide
    cast = helper.make_node("Cast", [small], [wide], name="cast_out", to=TensorProto.FLOAT)
    graph.node.insert(at, cast)


def _reconnect_(nodes: Collection[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
