"""Triton's messages from and to plain values."""

from functools import lru_cache

from tritonclient.grpc import service_pb2

from bandstop.client.errors import ProtocolError
from bandstop.client.wire import (
    Config,
    InferReply,
    InferRequest,
    Metadata,
    Place,
    Tensor,
    TensorSpec,
)

# The method of an inference, to be called with bytes.
INFER = "/inference.GRPCInferenceService/ModelInfer"
_CONTENTS = service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER


def to_wire(request: InferRequest) -> service_pb2.ModelInferRequest:
    """Return `request` as Triton's message."""
    return service_pb2.ModelInferRequest.FromString(to_bytes(request))


def to_bytes(request: InferRequest) -> bytes:
    """Return `request` as the bytes of Triton's message, the tensors copied only once.

    Messages of one type that follow each other are one message (protobuf, "Last One Wins"): what
    all requests for a model have in common is encoded once, the tensors' bytes are appended.
    """
    ports = tuple([(t.name, t.datatype, t.shape, t.place) for t in request.inputs])
    parts: list[bytes | memoryview] = [
        _without_tensors(request.model, request.version, ports, request.outputs)
    ]
    for tensor in request.inputs:
        if tensor.place is None:
            parts += (field_header(_CONTENTS, len(tensor.data)), tensor.data)
    return b"".join(parts)


@lru_cache(maxsize=64)
def _without_tensors(
    model: str,
    version: str,
    ports: tuple[tuple[str, str, tuple[int, ...], Place | None], ...],
    outputs: tuple[str, ...],
) -> bytes:
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, datatype, shape, place in ports:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        if place is not None:
            tensor.parameters["shared_memory_region"].string_param = place.region
            tensor.parameters["shared_memory_byte_size"].int64_param = place.size
    for name in outputs:
        message.outputs.add(name=name)
    return bytes(message.SerializeToString())


@lru_cache(maxsize=64)
def field_header(number: int, size: int) -> bytes:
    """Return what protobuf writes before `size` bytes of field `number`, 1 to 15: both of these."""
    found = bytearray([number << 3 | 2])
    while size > 127:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes([*found, size])


def from_wire(message: service_pb2.ModelInferResponse) -> InferReply:
    """Return Triton's message as a reply.

    Raises:
        ProtocolError: outputs and their bytes do not pair up.
    """
    if len(message.outputs) != len(message.raw_output_contents):
        raise ProtocolError(
            f"model {message.model_name}: the reply has {len(message.outputs)} outputs but bytes "
            f"for {len(message.raw_output_contents)}"
        )
    outputs = [
        Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), data)
        for tensor, data in zip(message.outputs, message.raw_output_contents, strict=True)
    ]
    return InferReply(message.model_name, message.model_version, tuple(outputs))


def to_metadata(reply: service_pb2.ModelMetadataResponse) -> Metadata:
    """Return what the server tells of a model's versions and tensors."""
    return Metadata(
        tuple(reply.versions),
        tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in reply.inputs),
        tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in reply.outputs),
    )


def to_config(reply: service_pb2.ModelConfigResponse) -> Config:
    """Return what we use of a model's configuration."""
    parameters = {key: value.string_value for key, value in reply.config.parameters.items()}
    return Config(reply.config.max_batch_size, parameters)
