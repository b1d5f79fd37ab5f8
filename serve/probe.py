"""One inference that tells how a model is, and what its outcome means."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype

# a PNG of one black pixel
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63"
    "60000000020001e527defc0000000049454e44ae426082"
)


class Health(IntEnum):
    """How a version of a model is, from well to worst."""

    WELL = 0
    GONE = 1  # not there any more: somebody unloads it
    BUSY = 2  # its queue is full
    DOWN = 3  # the server does not answer
    LATE = 4  # no answer in time
    FAILED = 5  # it failed while it ran
    DEAD = 6  # the process that runs it is gone


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found.

    Attributes:
        health: how the version is.
        reason: what the server said, in one line.
    """

    health: Health
    reason: str = ""


_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: Health.WELL,  # it lives, and has no use for zeros
    grpc.StatusCode.NOT_FOUND: Health.GONE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Health.BUSY,
    grpc.StatusCode.DEADLINE_EXCEEDED: Health.LATE,
    grpc.StatusCode.UNAVAILABLE: Health.DOWN,
    grpc.StatusCode.CANCELLED: Health.DOWN,
}
_BY_WORDS = (
    (grpc.StatusCode.INTERNAL, "is not healthy", Health.DEAD),
    (grpc.StatusCode.UNAVAILABLE, "exceeds maximum queue size", Health.BUSY),
    (grpc.StatusCode.UNAVAILABLE, "request timeout expired", Health.BUSY),
)


def request(
    version: str, metadata: service_pb2.ModelMetadataResponse
) -> service_pb2.ModelInferRequest | None:
    """Return a request of one row of zeros; None for a type that has no zero."""
    asked = service_pb2.ModelInferRequest(model_name=metadata.name, model_version=version)
    for spec in metadata.inputs:
        kind = triton_to_np_dtype(spec.datatype)
        if kind is None:
            return None
        zeros = sample(spec.shape, kind)
        asked.inputs.add(name=spec.name, datatype=spec.datatype, shape=zeros.shape)
        data = serialize_byte_tensor(zeros).item() if kind == np.object_ else zeros.tobytes()
        asked.raw_input_contents.append(data)
    return asked


def sample(shape: Iterable[int], kind: type[np.generic]) -> NDArray[np.generic]:
    """Return one row of zeros for an input; a black pixel for one that takes encoded pictures."""
    dims = [max(1, d) for d in shape]
    if np.dtype(kind) == np.object_:
        return np.full(dims, PIXEL, np.object_)
    return np.zeros(dims, kind)


def of_reply(reply: service_pb2.ModelInferResponse) -> Finding:
    """Return what an answer means."""
    if not reply.raw_output_contents or not all(reply.raw_output_contents):
        return Finding(Health.FAILED, "answers with empty tensors")
    return Finding(Health.WELL)


def of_error(error: grpc.RpcError) -> Finding:
    """Return what a failed call means."""
    code, said = error.code(), (error.details() or "").strip().split("\n")[0][:300]
    health = _BY_CODE.get(code, Health.FAILED)
    for status, words, kind in _BY_WORDS:
        if status is code and words in said.lower():
            health = kind
    return Finding(health, said or code.name)
