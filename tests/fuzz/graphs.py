"""Whatever bytes are an ONNX file, the rules tell what is wrong with it or it may be served."""

from typing import get_args

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no hints
from onnx import helper, numpy_helper

from bandstop.export.precision_record import Precision
from bandstop.export.record import ReleaseRecord
from bandstop.export.rules import violations
from tests.releases import record
from tests.whole_releases import graph

RECORDS: dict[str, ReleaseRecord] = {mode: record(mode=mode) for mode in ("baked", "gated")}


def seeds() -> list[bytes]:
    models = [graph(mode) for mode in RECORDS]
    return [model.SerializeToString() for model in (*models, quantised(graph("baked")))]


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, changed so that its image is rounded to 8 bits."""
    for name, value in {"scale": np.float32(1 / 255), "zero": np.uint8(0)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    for at, (op, source, result) in enumerate(
        (("QuantizeLinear", "image", "bytes"), ("DequantizeLinear", "bytes", "rounded"))
    ):
        node = helper.make_node(op, [source, "scale", "zero"], [result], name=op)
        model.graph.node.insert(at, node)
    model.graph.node[2].input[0] = "rounded"
    return model


def check(data: bytes) -> bool:
    """Return whether `data` is a graph that may be served, of either kind and any precision."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        return False
    found = [
        violations(model, facts.inputs, facts.outputs, precision)
        for facts in RECORDS.values()
        for precision in get_args(Precision)
    ]
    for told in found:
        assert all(line.isprintable() and len(line) < 4000 for line in told), told
    return [] in found
