"""Whether an ONNX file still holds a tensor as it was before the edit (no torch in here)."""

import hashlib
from collections.abc import Iterator, Mapping

import onnx
from onnx import numpy_helper

from bandstop.export.errors import GraphNotAllowed


def in_parent_form(model: onnx.ModelProto, parent: Mapping[str, str]) -> Iterator[str]:
    """Name the tensors of `model` that an edit changed and that are as before it all the same.

    Args:
        model: keeps its weights inside, under the names that they have in the network.
        parent: name -> digest of the numbers before the edit.
    """
    for tensor in model.graph.initializer:
        if tensor.name in parent:
            numbers = numpy_helper.to_array(tensor).tobytes()
            if hashlib.sha256(numbers).hexdigest() == parent[tensor.name]:
                yield f"{tensor.name}: is as it was before the edit"


def refuse_parent_form(file: bytes, parent: Mapping[str, str]) -> None:
    """Refuse an ONNX file in which a tensor stands as it was before the edit; see above.

    Raises:
        GraphNotAllowed: which ones, all at once.
    """
    left = list(in_parent_form(onnx.load_model_from_string(file), parent))
    if left:
        more = f"; and {len(left) - 8} more" if left[8:] else ""
        raise GraphNotAllowed(f"the graph is not allowed: {'; '.join(left[:8])}{more}")
