"""A served graph as the bytes of an ONNX file, the same bytes every time.

While the graph is optimised its weights are inputs, so that nothing about its structure can depend
on their values; then they are written in by name. So files of one architecture differ in weights
only, and one file can be refilled instead of being exported again.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from bandstop.export.errors import ExportError
from bandstop.export.graph import GatedGraph, PlainGraph, served_names
from bandstop.export.graph_place import place_masks_
from bandstop.export.record import TensorRecord

OPSET, MAX_IR_VERSION = 18, 10  # Triton 24.10 has ONNX Runtime 1.19, which reads up to these
BATCH_AXIS = "N"
_TORCH_TYPES = {"FP32": torch.float32, "UINT8": torch.uint8, "INT64": torch.int64}


def to_onnx(
    graph: PlainGraph | GatedGraph, inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord]
) -> bytes:
    """Return `graph` as a self-contained ONNX file with a free batch axis.

    Args:
        graph: its forward takes `inputs` in order and returns `outputs`.
        inputs: names, types and shapes without the batch axis.
        outputs: the same.

    Raises:
        ExportError: a name of a weight is taken by something else in the graph.
    """
    names = served_names(graph)
    with _no_collection():
        structure = _exported(graph, inputs, outputs)
        weights = _weights_to_inputs_(structure, names)
        onnxscript.optimizer.optimize_ir(structure)
    place_masks_(structure.graph)
    for i, constant in enumerate(list(structure.graph.initializers.values())):
        constant.name = f"constant_{i}"
    lost = [name for name, value in weights.items() if value.name != name]
    if lost:
        raise ExportError(f"export: {', '.join(lost)}: these names are taken; rename the weights")
    model = onnx_ir.to_proto(structure)
    strip_(model)
    _free_batch_axis_(model)
    _inputs_to_weights_(model, inputs, _by_served_name(graph, names))
    return bytes(model.SerializeToString(deterministic=True))


def with_weights(file: bytes, graph: PlainGraph | GatedGraph) -> bytes | None:
    """Return the ONNX `file` with the weights of `graph`; None where names, shapes or types differ.

    `file` must come from `to_onnx` of the same kind of graph; parity finds out where it does not.
    """
    model = onnx.load_model_from_string(file)
    weights = _by_served_name(graph, served_names(graph))
    for initializer in model.graph.initializer:
        if initializer.name.startswith("constant_"):
            continue
        weight = weights.get(initializer.name)
        if weight is None:
            return None
        tensor = _tensor(initializer.name, weight)
        if (tensor.dims, tensor.data_type) != (initializer.dims, initializer.data_type):
            return None
        initializer.CopyFrom(tensor)
    return bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no cycles meanwhile: to look through all of torch takes 0.3 s, and comes twice."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _exported(
    graph: nn.Module, inputs: Sequence[TensorRecord], outputs: Sequence[TensorRecord]
) -> onnx_ir.Model:
    examples = tuple(torch.zeros(2, *t.shape, dtype=_TORCH_TYPES[t.dtype]) for t in inputs)
    program = torch.onnx.export(
        graph.eval(),
        examples,
        dynamo=True,
        dynamic_shapes={t.name: {0: torch.export.Dim.DYNAMIC} for t in inputs},
        input_names=[t.name for t in inputs],
        output_names=[t.name for t in outputs],
        opset_version=OPSET,
        external_data=False,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise ExportError("export: the ONNX exporter returned nothing")
    return program.model


def _weights_to_inputs_(
    structure: onnx_ir.Model, names: dict[str, str]
) -> dict[str, onnx_ir.Value]:
    weights = {}
    for name, value in list(structure.graph.initializers.items()):
        if name not in names:
            continue  # a constant, not a weight
        del structure.graph.initializers[name]
        value.const_value = None
        value.name = names[name]
        structure.graph.inputs.append(value)
        weights[names[name]] = value
    return weights


def _inputs_to_weights_(
    model: onnx.ModelProto, inputs: Sequence[TensorRecord], weights: dict[str, Tensor]
) -> None:
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    constants = list(graph.initializer)
    given = [i for i in graph.input if i.name in {t.name for t in inputs}]
    del graph.input[:], graph.initializer[:]
    graph.input.extend(given)
    graph.initializer.extend(_tensor(n, weights[n]) for n in sorted(weights) if n in used)
    graph.initializer.extend(_plain(c) for c in constants if c.name in used)


def strip_(model: onnx.ModelProto) -> None:
    """Remove what tells of the machine, the sources or the exporter's own workings."""
    for field in ("producer_version", "domain", "doc_string", "metadata_props"):
        model.ClearField(field)
    model.producer_name = "bandstop"
    model.graph.name = "classifier"
    _forget_shapes_(model.graph)
    for part in _parts(model.graph):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _forget_shapes_(graph: onnx.GraphProto) -> None:
    """Remove what a reader can work out by itself: all but the size of what is enlarged."""
    enlarged = {node.output[0] for node in graph.node if node.op_type == "Resize"}
    needed = [value for value in graph.value_info if value.name in enlarged]
    del graph.value_info[:]
    graph.value_info.extend(needed)


def _parts(
    graph: onnx.GraphProto,
) -> Iterator[onnx.GraphProto | onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto]:
    yield graph
    yield from graph.node
    yield from graph.input
    yield from graph.output
    yield from graph.value_info
    yield from graph.initializer


def _free_batch_axis_(model: onnx.ModelProto) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = BATCH_AXIS


def _by_served_name(graph: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    return {names[name]: value for name, value in graph.state_dict().items()}


def _tensor(name: str, value: Tensor) -> onnx.TensorProto:
    return numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name)


def _plain(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return `tensor` with its content and name and nothing else."""
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
