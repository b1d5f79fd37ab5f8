"""Where a gated graph multiplies its masks on: the same function, computed with less work.

The exported graph has each mask right behind its layer. There it keeps the runtime from fusing the
layer with what follows, and acts on the largest tensor. What is moved is exact: a factor m >= 0 of
a channel commutes with what is positively homogeneous channel by channel, and with a maximum.
"""

from collections.abc import Set as AbstractSet

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

_TABLE = "gates.masks"
# what only selects, joins or reshapes masks, or makes them float, so that they stay >= 0
_READS_MASKS = frozenset(
    {"Cast", "Div", "Gather", "Identity", "ReduceMin", "Reshape", "Split", "Squeeze", "Unsqueeze"}
)
# f(m x) = m f(x) for m >= 0; not ReLU6, GELU or SiLU
_HOMOGENEOUS = frozenset({"AveragePool", "LeakyRelu", "MaxPool", "Relu"})
_BLOCK = 16  # channels that ONNX Runtime keeps together in its own layout of images, or half of it


def place_masks_(graph: onnx_ir.Graph) -> None:
    """Move each product with a mask of `graph` to where it costs least.

    Behind activations and poolings that it commutes with, so that a convolution is fused with its
    activation and fewer elements are multiplied. Where something is added first, the activation
    stays behind the sum, but a maximum is taken before both.
    """
    masks = _masks(graph)
    products = [node for node in graph if _is_product(node, masks)]
    for product in products:
        _delay_(graph, product)
    for pool in [node for node in graph if node.op_type == "MaxPool"]:
        _hasten_(graph, pool, masks)
    for product in products:
        _spread_(graph, product)


def _masks(graph: onnx_ir.Graph) -> set[Value]:
    """Return the values of `graph` that hold masks and nothing else."""
    masks: set[Value] = set()
    for node in graph:
        source = node.inputs[0] if node.inputs else None
        is_table = source is not None and source.name == _TABLE
        if node.op_type in _READS_MASKS and (is_table or source in masks):
            masks.update(node.outputs)
    return masks


def _is_product(node: Node, masks: AbstractSet[Value]) -> bool:
    """Return whether `node` multiplies feature maps (n, c, h, w), its input 0, with masks."""
    return (
        node.op_type == "Mul"
        and node.inputs[0] not in masks
        and node.inputs[1] in masks
        and _is_per_channel(node.inputs[1])
    )


def _is_per_channel(value: Value | None) -> bool:
    """Return whether `value` is known to be (n or 1, c, 1, 1)."""
    shape = None if value is None else value.shape
    return shape is not None and len(shape) == 4 and shape[2] == 1 and shape[3] == 1


def _delay_(graph: onnx_ir.Graph, product: Node) -> None:
    while reader := _only_reader(product):
        if reader.op_type not in _HOMOGENEOUS or len(reader.outputs) != 1:
            return
        _swap_(graph, product, reader)


def _hasten_(graph: onnx_ir.Graph, pool: Node, masks: AbstractSet[Value]) -> None:
    """Let `pool`, a maximum, run before a product with masks that only it reads.

    What lies between may be a sum with one value a channel, and ReLU: all keep the order of what
    is compared.
    """
    if len(pool.outputs) != 1:
        return
    between: list[Node] = []
    node = _made_by(pool)
    while node is not None and _only_reader(node) and _keeps_order(node, masks):
        between.append(node)
        node = _made_by(node)
    while between and not _is_product(between[-1], masks):
        between.pop()
    for node in between:
        _swap_(graph, node, pool)


def _keeps_order(node: Node, masks: AbstractSet[Value]) -> bool:
    shifts = node.op_type == "Add" and _is_per_channel(node.inputs[1])
    return shifts or node.op_type == "Relu" or _is_product(node, masks)


def _made_by(node: Node) -> Node | None:
    source = node.inputs[0]
    return None if source is None else source.producer()


def _only_reader(node: Node) -> Node | None:
    """Return what reads the output of `node`, where it is read once, as the first input."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].idx != 0:
        return None
    return uses[0].node


def _swap_(graph: onnx_ir.Graph, first: Node, then: Node) -> None:
    """Let `then`, the only reader of `first`, run before it; both work on their input 0."""
    (before,), (after,) = first.outputs, then.outputs
    then.replace_input_with(0, first.inputs[0])
    after.replace_all_uses_with(before, replace_graph_outputs=True)
    first.replace_input_with(0, after)
    before.shape = after.shape
    graph.remove(first)
    graph.insert_after(then, first)


def _spread_(graph: onnx_ir.Graph, product: Node) -> None:
    """Give the masks of `product` the size of its feature maps, in ONNX Runtime's own layout.

    ONNX Runtime keeps the channels of convolutions in blocks. It leaves that layout for a product
    of unequal shapes, and takes it up again behind, at the price of two more passes. A 1x1
    convolution takes the masks into the layout and an enlargement fills the maps there.
    """
    maps, masks = product.inputs
    if maps is None or masks is None or maps.shape is None or not _from_convolution(product):
        return
    _, channels, height, width = maps.shape
    if not isinstance(channels, int) or channels % _BLOCK or height == width == 1:
        return
    if not isinstance(height, int) or not isinstance(width, int):
        return
    reader = _only_reader(product)
    if reader is not None and reader.op_type == "Add" and _is_per_channel(reader.inputs[1]):
        return  # a second map for what is added costs more than it saves
    name = product.outputs[0].name
    ones = _constant(graph, f"{name}_ones", np.ones((channels, 1, 1, 1), np.float32))
    size = _constant(graph, f"{name}_size", np.array([1, 1, height, width], np.float32))
    inside = onnx_ir.node("Conv", [masks, ones], {"group": channels})
    how = {"mode": "nearest", "nearest_mode": "floor"}
    spread = onnx_ir.node(
        "Resize",
        [inside.outputs[0], None, size],
        {**how, "coordinate_transformation_mode": "asymmetric"},
    )
    for node, label in ((inside, "inside"), (spread, "spread")):
        node.name = f"{product.name}_{label}"
        node.outputs[0].name = f"{name}_{label}"
        node.outputs[0].dtype = onnx_ir.DataType.FLOAT
        graph.insert_before(product, node)
    # without this shape ONNX Runtime does not know that the two are of equal size
    spread.outputs[0].shape = maps.shape
    product.replace_input_with(1, spread.outputs[0])


def _from_convolution(product: Node) -> bool:
    node = _made_by(product)
    while node is not None and node.op_type in _HOMOGENEOUS:
        node = _made_by(node)
    return node is not None and node.op_type == "Conv"


def _constant(
    graph: onnx_ir.Graph, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> Value:
    tensor = onnx_ir.tensor(value, name=name)
    made = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(value.shape), type=onnx_ir.TensorType(tensor.dtype)
    )
    made.const_value = tensor
    graph.register_initializer(made)
    return made
