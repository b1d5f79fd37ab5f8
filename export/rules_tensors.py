"""The rules for the values in a graph: they lie in the file itself, can be read, and are finite."""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

REFUSED = "gates.refused"  # the one NaN: the logits of a refused row


def external(model: onnx.ModelProto) -> Iterator[str]:
    """Tell what lies outside of the file; no value is looked at, which could open any file."""
    nodes = [node for function in model.functions for node in function.node]
    for name, tensor in (*_stored(model.graph), *_in_nodes(nodes)):
        if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
            yield f"{name}: external data is not allowed"


def unreadable(graph: onnx.GraphProto) -> Iterator[str]:
    """Tell which tensors are no numbers, or not as many as their shape says."""
    for name, tensor in _stored(graph):
        if tensor.data_type == TensorProto.STRING:
            yield f"{name}: strings are not allowed"
        elif any(size < 0 for size in tensor.dims):
            yield f"{name}: holds what cannot be read (shape {list(tensor.dims)})"
        else:
            try:
                numpy_helper.to_array(tensor)
            except (ValueError, TypeError, KeyError, IndexError) as error:
                yield f"{name}: holds what cannot be read ({error!s:.100})"


def not_finite(graph: onnx.GraphProto, *, gated: bool) -> Iterator[str]:
    """Tell which values are NaN or infinite; a graph with gates may hold the one NaN it needs."""
    for name, tensor in _stored(graph):
        allowed = gated and name == REFUSED and not tensor.dims
        if not allowed and not _finite(numpy_helper.to_array(tensor)):
            yield f"{name}: holds NaN or infinity"
    for node in graph.node:
        for a in node.attribute:
            if not np.isfinite([a.f, *a.floats]).all():
                yield f"{_named(node)}.{a.name}: holds NaN or infinity"


def _finite(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    return not np.issubdtype(value.dtype, np.inexact) or bool(np.isfinite(value).all())


def _stored(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield every tensor in `graph` with its name, those of graphs inside its nodes too."""
    for initializer in graph.initializer:
        yield initializer.name or "a weight", initializer
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(sparse)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            name = f"{_named(node)}.{attribute.name}"
            own = [attribute.t] if attribute.HasField("t") else []
            yield from ((name, tensor) for tensor in (*own, *attribute.tensors))
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for one in (*sparse, *attribute.sparse_tensors):
                yield from _of_sparse(one)
            inner = [attribute.g] if attribute.HasField("g") else []
            for graph in (*inner, *attribute.graphs):
                yield from _stored(graph)


def _of_sparse(sparse: onnx.SparseTensorProto) -> Iterator[tuple[str, TensorProto]]:
    for part in (sparse.values, sparse.indices):
        yield part.name or "a sparse tensor", part


def _named(node: onnx.NodeProto) -> str:
    return node.name or f"a {node.op_type}"
