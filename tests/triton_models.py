"""A tiny model repository for a real server: an image model, a gated one, one that can fail."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

IMAGE = ("image", TensorProto.FLOAT, (3, 4, 4))
CLASS = ("forget_class", TensorProto.INT64, (1,))
FLAT_CLASS = ("forget_class", TensorProto.INT64, ())
LOGITS = ("logits", TensorProto.FLOAT, (10,))
NAMES: dict[int, str] = {TensorProto.FLOAT: "TYPE_FP32", TensorProto.INT64: "TYPE_INT64"}
Port = tuple[str, int, tuple[int, ...]]


def make_repository(root: Path) -> Path:
    """Write the models `pixel`, `gated`, `flat` (class of rank one) and `raises` into `root`."""
    write_model(root, "pixel", (IMAGE,), [_dense("logits")])
    write_model(root, "gated", (IMAGE, CLASS), _gated(guarded=True))
    write_model(root, "flat", (IMAGE, FLAT_CLASS), _gated(guarded=True))
    write_model(root, "raises", (IMAGE, CLASS), _gated(guarded=False))
    return root


def write_broken(root: Path, name: str = "broken") -> Path:
    """Write a model whose configuration declares one class more than its graph has."""
    write_model(root, name, (IMAGE,), [_dense("logits")])
    config = root / name / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [10]", "dims: [11]"))
    return root


def write_model(
    root: Path, name: str, inputs: Sequence[Port], nodes: Sequence[onnx.NodeProto]
) -> None:
    """Write one model with its complete configuration."""
    folder = root / name
    (folder / "1").mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    constants: dict[str, NDArray[np.generic]] = {
        "weights": rng.normal(size=(48, 10)).astype(np.float32),
        "gates": rng.uniform(size=(10, 10)).astype(np.float32),
        "column": np.array([-1]),
        "zero": np.array([0]),
        "ten": np.array([10]),
        "nan": np.array([np.nan], np.float32),
    }
    used = {port for node in nodes for port in node.input}
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["pixels"]), *nodes],
        name,
        [_value(port) for port in inputs],
        [_value(LOGITS)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items() if k in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(_config(name, inputs))


def _dense(output: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", ["pixels", "weights"], [output])


def _gated(*, guarded: bool) -> list[onnx.NodeProto]:
    """Logits times the row of gates that the request chose; unguarded, a bad choice raises."""
    node = helper.make_node
    choose = [node("Reshape", ["forget_class", "column"], ["asked"])]
    if not guarded:
        gates = [node("Gather", ["gates", "asked"], ["row"])]
        return [*choose, *gates, _dense("plain"), node("Mul", ["plain", "row"], ["logits"])]
    return [
        *choose,
        node("GreaterOrEqual", ["asked", "zero"], ["low"]),
        node("Less", ["asked", "ten"], ["high"]),
        node("And", ["low", "high"], ["known"]),
        node("Where", ["known", "asked", "zero"], ["safe"]),
        node("Gather", ["gates", "safe"], ["row"]),
        _dense("plain"),
        node("Mul", ["plain", "row"], ["gated"]),
        node("Unsqueeze", ["known", "column"], ["rows"]),
        node("Where", ["rows", "gated", "nan"], ["logits"]),
    ]


def _value(port: Port) -> onnx.ValueInfoProto:
    name, kind, shape = port
    return helper.make_tensor_value_info(name, kind, ["N", *shape])


def _config(name: str, inputs: Sequence[Port]) -> str:
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: 32
{"".join(_declaration("input", port) for port in inputs)}{_declaration("output", LOGITS)}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: 20000 }}
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
"""


def _declaration(kind: str, port: Port) -> str:
    name, dtype, shape = port
    dims = f"dims: {list(shape)}" if shape else "dims: [1] reshape { shape: [] }"
    return f'{kind} [ {{ name: "{name}" data_type: {NAMES[dtype]} {dims} }} ]\n'
