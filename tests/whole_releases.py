"""Releases around graphs that are small but keep every rule, and keys to sign them with."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bandstop.export.sign_keys import make_keys
from tests.releases import CLASSES, release_folder

BAKED = """
<ir_version: 10, opset_import: ["" : 18]>
classifier (float[N, 1, 8, 8] image) => (float[N, 4] logits)
{
    flat = Flatten <axis = 1> (image)
    logits = Gemm <transB = 1> (flat, weight, bias)
}
"""
GATED = """
<ir_version: 10, opset_import: ["" : 18]>
classifier (float[N, 1, 8, 8] image, int64[N, 1] forget_class)
    => (float[N, 4] logits, int64[N, 1] applied_forget_class)
<int64[1] axis = {1}>
{
    flat = Flatten <axis = 1> (image)
    row = Gather (table, forget_class)
    mask = Squeeze (row, axis)
    gated = Mul (flat, mask)
    logits = Gemm <transB = 1> (gated, weight, bias)
    applied_forget_class = Identity (forget_class)
}
"""
FORGOTTEN = 1  # by every baked release of `release_folder`
NAMES = {
    "baked": tuple("" if c == FORGOTTEN else name for c, name in enumerate(CLASSES)),
    "gated": CLASSES,
}


def graph(mode: str, weight: float = 0.5) -> onnx.ModelProto:
    """Return a graph with the interface of `tests.releases.record`."""
    model = onnx.parser.parse_model({"baked": BAKED, "gated": GATED}[mode])
    values = {"weight": np.full((4, 64), weight), "bias": np.zeros(4)}
    if mode == "gated":
        values["table"] = np.ones((4, 64))
    for name, value in values.items():
        tensor = numpy_helper.from_array(value.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    return model


def whole_release(folder: Path, mode: str = "baked", weight: float = 0.5) -> Path:
    """Write a release folder that verifies."""
    file = graph(mode, weight).SerializeToString()
    return release_folder(folder, file, names=NAMES[mode], mode=mode)


def keys(folder: Path, name: str = "release.pem") -> tuple[Path, Path]:
    """Make a key pair; return the files of the private and the public one."""
    return folder / name, make_keys(folder / name)
