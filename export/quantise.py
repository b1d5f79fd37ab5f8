"""An ONNX file with its layers in 8-bit integers, in the QDQ form of the standard operators.

Only what multiplies by weights is quantised: convolutions and linear layers but the last, whose
bias may be -1e4. Masks, sums, norms, attention and logits stay float32: in integers they were not
faster, and less exact.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from bandstop.export.errors import ExportError
from bandstop.export.onnx_file import strip_

Feeds = Mapping[str, npt.NDArray[np.generic]]
_WEIGHTED = ("Conv", "Gemm", "MatMul")
# an activation behind a layer goes into its range of values; pooling needs no other numbers
_BETWEEN = ("Relu", "Clip", "MaxPool")
_PREPARED = "onnx.quant.pre_process"  # else the quantiser asks to have done what `to_onnx` did


class _Reader:
    """Hands out batches one by one, as the quantiser wants them."""

    def __init__(self, batches: Iterable[Feeds]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def to_int8(file: bytes, batches: Iterable[Feeds]) -> bytes:
    """Return the ONNX `file` with quantised layers; the same bytes for the same images.

    Activations are unsigned, with a range a tensor; weights are signed, symmetric, and have a scale
    an output channel. Weights take 7 bits: processors without VNNI add up two products in 16 bits,
    which 8 bits would overflow, so that what forgets here would answer otherwise elsewhere
    (ONNX Runtime's manual on quantisation, "reduce_range").

    Args:
        file: of float32, as `to_onnx` makes it.
        batches: what the file's session takes; each range is the smallest and the largest value
            seen.

    Raises:
        ExportError: nothing in it can be quantised.
    """
    # here, since it changes sys.path
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    model = onnx.load_model_from_string(file)
    _turn_weights_(model.graph)
    layers = _layers(model.graph)
    if not layers:
        raise ExportError("int8: the network has no layer but its last; leave --precision out")
    model.metadata_props.add(key=_PREPARED, value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.onnx"
        quantize_static(
            model,
            out,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_WEIGHTED, *_BETWEEN],
            nodes_to_exclude=_kept(model.graph, layers),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True, "MatMulConstBOnly": True},
        )
        quantised = onnx.load(out, load_external_data=False)
    _tidy_(quantised)
    return bytes(quantised.SerializeToString(deterministic=True))


def _turn_weights_(graph: onnx.GraphProto) -> None:
    """Store as it is read what the graph transposes first: the quantiser sees constants alone."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    turns = [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in constants]
    for turn in turns:
        order = next((list(a.ints) for a in turn.attribute if a.name == "perm"), None)
        value = numpy_helper.to_array(constants[turn.input[0]]).transpose(order)
        name = f"{turn.input[0]}.transposed"
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        for node in graph.node:
            node.input[:] = [name if i == turn.output[0] else i for i in node.input]
        graph.node.remove(turn)


def _layers(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the layers to quantise: all that see the image but the last."""
    constants = {tensor.name for tensor in graph.initializer}
    seen, found = {"image"}, []
    for node in graph.node:
        if seen.isdisjoint(node.input):
            continue  # a layer that spreads masks over pixels is none of these
        seen.update(node.output)
        if node.op_type in _WEIGHTED and not constants.isdisjoint(node.input[1:2]):
            found.append(node.name)
    return found[:-1]


def _kept(graph: onnx.GraphProto, layers: list[str]) -> list[str]:
    """Return the names of the layers that stay as they are."""
    return [n.name for n in graph.node if n.op_type in _WEIGHTED and n.name not in layers]


def _tidy_(model: onnx.ModelProto) -> None:
    """Remove what the quantiser says of itself, and what is not used any more."""
    strip_(model)
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in used}
    standard = [opset for opset in model.opset_import if opset.domain == ""]
    del graph.initializer[:], graph.value_info[:], model.opset_import[:]
    graph.initializer.extend(numpy_helper.from_array(stored[n], n) for n in sorted(stored))
    model.opset_import.extend(standard)
