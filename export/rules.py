"""The rules that every served graph keeps, checked on the ONNX file itself."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx
from onnx import TensorProto, numpy_helper

from bandstop.edit.errors import printable
from bandstop.export.errors import GraphNotAllowed
from bandstop.export.onnx_file import BATCH_AXIS, MAX_IR_VERSION, OPSET
from bandstop.export.precision_record import Precision
from bandstop.export.record import TensorRecord
from bandstop.export.rules_fields import strange_fields
from bandstop.export.rules_gates import gates_left
from bandstop.export.rules_precision import MORE_OPS, imprecise
from bandstop.export.rules_sizes import oversized, sizes
from bandstop.export.rules_structure import metadata, unused
from bandstop.export.rules_tensors import external, not_finite, unreadable

# stateless, without control flow, randomness, strings or host access
ALLOWED_OPS = frozenset(
    op
    for line in (
        "Abs Add And AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv Div Elu",
        "ConstantOfShape Equal Erf Exp Expand Flatten Floor Gather GatherND Gelu Gemm Mod Range",
        "GlobalAveragePool GlobalMaxPool GreaterOrEqual GroupNormalization HardSigmoid HardSwish",
        "Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log",
        "LogSoftmax MatMul Max MaxPool Min Mish Mul Neg Not Or PRelu Pad Pow Reciprocal Resize",
        "ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Shape Sigmoid Slice",
        "Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Where",
    )
    for op in line.split()
)
_LINE = 400  # characters of a violation
_ONNX_TYPES = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8, "INT64": TensorProto.INT64}


def check_graph(
    file: bytes,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
    precision: Precision = "float32",
) -> None:
    """Refuse an ONNX file that breaks a rule; see `violations`.

    Raises:
        GraphNotAllowed: with all violations at once.
    """
    broken = violations(onnx.load_model_from_string(file), inputs, outputs, precision)
    if broken:
        more = f"; and {len(broken) - 8} more" if broken[8:] else ""
        raise GraphNotAllowed(f"the graph is not allowed: {'; '.join(broken[:8])}{more}")


def violations(
    model: onnx.ModelProto,
    inputs: Sequence[TensorRecord],
    outputs: Sequence[TensorRecord],
    precision: Precision = "float32",
) -> list[str]:
    """Return what is wrong with `model`, each in a few words; nothing when it may be served.

    Args:
        model: not changed.
        inputs: the inputs that it must have; with one called forget_class it may hold gates.
        outputs: the outputs that it must have.
        precision: of its numbers.
    """
    # before anything looks at a value: to read one that lies elsewhere opens what it names
    if hidden := [*external(model)] or [*unreadable(model.graph)]:
        return _shown(hidden)
    gated = any(t.name == "forget_class" for t in inputs)
    broken = [
        *_format(model),
        *_nodes(model.graph, ALLOWED_OPS | MORE_OPS[precision]),
        *_signature("input", model.graph.input, inputs),
        *_signature("output", model.graph.output, outputs),
        *not_finite(model.graph, gated=gated),
        *imprecise(model.graph, precision),
        *unused(model.graph),
        *sizes(model.graph),
        *metadata(model),
        *strange_fields(model),
    ]
    if not gated:
        broken += gates_left(model.graph, num_classes=outputs[0].shape[0])
    return _shown(broken or [*_checker(model)] or oversized(model))


def _shown(lines: Iterable[str]) -> list[str]:
    """Return `lines` such that no name in the file breaks them, or the terminal that shows them."""
    return [printable(line[:_LINE]) for line in lines]


def _format(model: onnx.ModelProto) -> Iterator[str]:
    if not 3 <= model.ir_version <= MAX_IR_VERSION:
        yield f"IR version {model.ir_version}, expected <= {MAX_IR_VERSION}"
    opsets = [(o.domain, o.version) for o in model.opset_import]
    if opsets != [("", OPSET)]:
        yield f"operator sets {opsets}, expected only the standard one, version {OPSET}"
    if model.functions:
        yield f"function {model.functions[0].name}: functions are not allowed"
    if model.training_info:
        yield "training information is not allowed"
    if model.graph.sparse_initializer:
        yield "sparse initializers are not allowed"


def _nodes(graph: onnx.GraphProto, allowed: Collection[str]) -> Iterator[str]:
    constants = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.domain:
            yield f"{node.name}: operator {node.domain}.{node.op_type} of a custom domain"
        elif node.op_type not in allowed:
            yield f"{node.name}: operator {node.op_type} is not on the list"
        elif node.op_type == "BatchNormalization" and not _is_neutral(node, constants):
            yield f"{node.name}: BatchNormalization holds statistics; fold them into the weights"


def _is_neutral(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Return whether a BatchNormalization has mean 0 and variance 1, so only scales and shifts."""
    wanted = dict(zip(node.input[3:5], (0.0, 1.0), strict=False))
    # in training it would take the statistics of the batch instead, and give them as more outputs
    trains = any(a.name == "training_mode" and a.i for a in node.attribute)
    if trains or len(node.output) != 1 or len(wanted) != 2:
        return False
    return all(
        name in constants and bool((numpy_helper.to_array(constants[name]) == value).all())
        for name, value in wanted.items()
    )


def _signature(
    kind: str, there: Sequence[onnx.ValueInfoProto], wanted: Sequence[TensorRecord]
) -> Iterator[str]:
    if [v.name for v in there] != [t.name for t in wanted]:
        yield f"{kind}s {[v.name for v in there]}, expected {[t.name for t in wanted]}"
        return
    for value, tensor in zip(there, wanted, strict=True):
        kind_of = value.type.tensor_type
        shape = [d.dim_param or d.dim_value for d in kind_of.shape.dim]
        if kind_of.elem_type != _ONNX_TYPES[tensor.dtype]:
            named = kind_of.elem_type in TensorProto.DataType.values()
            name = TensorProto.DataType.Name(kind_of.elem_type) if named else kind_of.elem_type
            yield f"{kind} {value.name}: type {name}, expected {tensor.dtype}"
        if shape != [BATCH_AXIS, *tensor.shape]:
            yield f"{kind} {value.name}: shape {shape}, expected {[BATCH_AXIS, *tensor.shape]}"


def _checker(model: onnx.ModelProto) -> Iterator[str]:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        # what its C++ may throw besides; UnicodeDecodeError where it quotes a name that is no text
        *(ValueError, TypeError, IndexError, RuntimeError),
    ) as error:
        yield f"not valid ONNX: {(str(error).strip() or 'no reason given').splitlines()[0]}"
