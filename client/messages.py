"""Triton's messages from and to plain values."""

from tritonclient.grpc import service_pb2

from bandstop.client.errors import ProtocolError
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata, Tensor, TensorSpec


def to_wire(request: InferRequest) -> service_pb2.ModelInferRequest:
    """Return `request` as Triton's message."""
    message = service_pb2.ModelInferRequest(model_name=request.model, model_version=request.version)
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.data)
    for name in request.outputs:
        message.outputs.add(name=name)
    return message


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
    outputs = tuple(
        Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), data)
        for tensor, data in zip(message.outputs, message.raw_output_contents, strict=True)
    )
    return InferReply(message.model_name, message.model_version, outputs)


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
