"""The rules for how large values get: never by a request, and not beyond what networks have."""

import math
from collections.abc import Iterator

import onnx

MOST_NUMBERS = 1 << 28  # of one value, for one image; what attention holds at 1024 pixels
# inputs that say how large an output is
_SIZES = {
    **{"ConstantOfShape": (0,), "Expand": (1,), "Pad": (1,), "Range": (0, 1, 2), "Reshape": (1,)},
    "Resize": (1, 2, 3),
}


def sizes(graph: onnx.GraphProto) -> Iterator[str]:
    """Name the nodes whose output a request could make as large as it likes."""
    asked = {i.name for i in graph.input}  # what depends on the numbers in a request
    for node in graph.node:
        sizes = [node.input[i] for i in _SIZES.get(node.op_type, ()) if i < len(node.input)]
        if not asked.isdisjoint(sizes):
            yield f"{node.name or node.op_type}: {node.op_type} takes its size from a request"
        if node.op_type != "Shape" and not asked.isdisjoint(node.input):
            asked.update(node.output)


def oversized(model: onnx.ModelProto) -> Iterator[str]:
    """Name the values that get larger than any that a network has, for one image of any batch.

    Args:
        model: valid; it is not changed.
    """
    try:
        shaped = onnx.shape_inference.infer_shapes(_without_weights(model), data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return  # told by the checker, which infers them too
    for value in shaped.graph.value_info:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value]
        if math.prod(sizes) > MOST_NUMBERS or min(sizes, default=1) < 0:
            yield f"{value.name}: gets the shape {sizes}, expected {MOST_NUMBERS} numbers at most"


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with no more than the shapes of its large tensors, which is soon copied."""
    graph = model.graph
    light = onnx.GraphProto(name=graph.name, node=graph.node)
    light.input.extend(graph.input)
    light.output.extend(graph.output)
    for tensor in graph.initializer:
        large = math.prod(tensor.dims) > 64
        shape = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        light.initializer.append(shape if large else tensor)
    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, graph=light
    )
