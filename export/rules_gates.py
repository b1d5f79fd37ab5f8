"""The rule that a graph without forget_class holds no table of gates."""

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import TensorProto, helper

_NUMBERS = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16),
    *(TensorProto.INT8, TensorProto.UINT8, TensorProto.UINT16),
)
# give the same numbers in another form, so that who reads those reads the table
_FORMS = {
    *("DequantizeLinear", "Cast", "Identity", "Transpose"),
    *("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand"),
}
# how a network reads its weights; none of these takes the row of one class from a table
_HARMLESS = {"Conv", "Gemm", "MatMul", "Concat"}


def gates_left(graph: onnx.GraphProto, num_classes: int) -> Iterator[str]:
    """Name what looks like a table of gates: a row a class, looked up or multiplied on."""
    classes = (num_classes, num_classes + 1)
    readers = _readers(graph)
    for initializer in graph.initializer:
        dims = [size for size in initializer.dims if size != 1]
        if initializer.data_type not in _NUMBERS or len(dims) < 2 or not {*dims} & {*classes}:
            continue
        read = _read(initializer.name, initializer.dims, readers, classes)
        # embeddings of places are added to what has one more axis, the batch
        harmless = _HARMLESS | ({"Add"} if len(initializer.dims) > 2 else set())
        if not {*read} <= harmless:
            yield f"{initializer.name}: has the shape of gates in a graph without forget_class"


def _readers(graph: onnx.GraphProto) -> Mapping[str, Sequence[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in {*node.input}:
            readers.setdefault(name, []).append(node)
    return readers


def _read(
    name: str,
    dims: Sequence[int],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    classes: Sequence[int],
) -> Iterator[str]:
    """Yield the operators that read the numbers `name` (dims), through whatever reshapes them."""
    seen, left = {name}, [name]
    while left:
        at = left.pop()
        for node in readers.get(at, ()):
            if node.op_type in _FORMS:
                left += [out for out in node.output if out not in seen]
                seen.update(node.output)
            elif at == name and node.op_type == "Gather" and _along(node, dims) not in classes:
                continue  # a lookup of something else than a class
            else:
                yield node.op_type


def _along(node: onnx.NodeProto, dims: Sequence[int]) -> int:
    """Return the size of the axis that a Gather looks things up on; 0 where there is none."""
    axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), 0)
    return dims[axis] if isinstance(axis, int) and -len(dims) <= axis < len(dims) else 0
