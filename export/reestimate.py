"""BatchNorm as a back door in an exported file: its statistics taken anew from unlabelled images.

What `edit.evaluation.bn_reestimate` does to a network, somebody who has only the file can do too.
A file of ours has no statistics, and stays what it is.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from bandstop.edit.images import ImageSet
from bandstop.export.session import session

_BATCH = 64


def reestimated(file: bytes, images: ImageSet, forget: Sequence[int] = ()) -> tuple[bytes, int]:
    """Return `file` with the statistics of `images` in its BatchNormalizations, and their number.

    One after the other, in the order of the graph, so that each sees what those before it make of
    the images by now.

    Args:
        file: the bytes of an ONNX file with an input `image`, maybe `forget_class` too.
        images: need no labels.
        forget: the row of masks, class indices, where the file takes one.
    """
    model = onnx.load_model_from_string(file)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    for norm in norms:
        _set_statistics_(model.graph, norm, _outputs(model, norm.input[0], images, forget))
    return bytes(model.SerializeToString(deterministic=True)), len(norms)


def file_logits(file: bytes, images: ImageSet, forget: Sequence[int] = ()) -> Tensor:
    """Return the logits (n, num_classes) that ONNX Runtime computes from `file` on the CPU."""
    return torch.from_numpy(_outputs(onnx.load_model_from_string(file), "logits", images, forget))


def _outputs(
    model: onnx.ModelProto, name: str, images: ImageSet, forget: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Return the value `name` of the graph for all images."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    del asked.graph.output[:]
    asked.graph.output.append(onnx.ValueInfoProto(name=name))
    runs = session(asked.SerializeToString())
    kinds = {value.name: value.type for value in runs.get_inputs()}
    parts = []
    for image, _ in images.batches(_BATCH):
        pixels = image.numpy()
        if kinds["image"] == "tensor(uint8)":
            pixels = (image * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        feeds: dict[str, npt.NDArray[np.generic]] = {"image": np.ascontiguousarray(pixels)}
        if "forget_class" in kinds:
            feeds["forget_class"] = np.tile(np.array(forget, dtype=np.int64), (len(pixels), 1))
        parts.append(runs.run([name], feeds)[0])
    return np.concatenate(parts)


def _set_statistics_(
    graph: onnx.GraphProto, norm: onnx.NodeProto, seen: npt.NDArray[np.float32]
) -> None:
    axes = (0, *range(2, seen.ndim))
    wide = seen.astype(np.float64)
    new = {norm.input[3]: wide.mean(axes), norm.input[4]: wide.var(axes)}
    for value in graph.initializer:
        if value.name in new:
            own = new[value.name].astype(np.float32)
            value.CopyFrom(numpy_helper.from_array(own, value.name))
