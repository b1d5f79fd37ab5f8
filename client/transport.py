"""The way to a server: one seam, and a gRPC implementation of it."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client.channel import Tls, open_channel
from bandstop.client.errors import ClientError, ProtocolError
from bandstop.client.status import translate
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata, Tensor, TensorSpec

R = TypeVar("R")


class Transport(Protocol):
    """Carries single calls to one server; raises nothing but ClientError.

    `timeout` is in seconds and positive; a call that takes longer fails with DeadlineExceeded.
    It is safe for threads. `version` "" leaves the choice to the server.
    """

    def ready(self, model: str, version: str, timeout: float) -> bool:
        """Return whether the server says that the model can be asked."""
        ...

    def metadata(self, model: str, version: str, timeout: float) -> Metadata:
        """Return the tensors and the versions of a model."""
        ...

    def config(self, model: str, version: str, timeout: float) -> Config:
        """Return the configuration of a model."""
        ...

    def infer(self, request: InferRequest, timeout: float) -> InferReply:
        """Return the server's reply, unchecked."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class GrpcTransport:
    """Triton's gRPC protocol over one channel, which is opened when it is first used."""

    def __init__(
        self, url: str, tls: Tls | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Prepare for the server at `url`; raises InvalidInput where it is no address.

        Args:
            url: see `open_channel`.
            tls: see `open_channel`.
            headers: metadata sent with every call, such as a token.
        """
        self._address, self._headers = url, headers
        self._channel = open_channel(url, tls)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def ready(self, model: str, version: str, timeout: float) -> bool:
        """Return whether the server says that the model can be asked."""
        request = service_pb2.ModelReadyRequest(name=model, version=version)
        return bool(self._call(self._stub.ModelReady, request, timeout).ready)

    def metadata(self, model: str, version: str, timeout: float) -> Metadata:
        """Return the tensors and the versions of a model."""
        request = service_pb2.ModelMetadataRequest(name=model, version=version)
        reply = self._call(self._stub.ModelMetadata, request, timeout)
        return Metadata(
            tuple(reply.versions),
            tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in reply.inputs),
            tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in reply.outputs),
        )

    def config(self, model: str, version: str, timeout: float) -> Config:
        """Return the configuration of a model."""
        request = service_pb2.ModelConfigRequest(name=model, version=version)
        config = self._call(self._stub.ModelConfig, request, timeout).config
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        return Config(config.max_batch_size, parameters)

    def infer(self, request: InferRequest, timeout: float) -> InferReply:
        """Return the server's reply, unchecked."""
        return from_wire(self._call(self._stub.ModelInfer, to_wire(request), timeout))

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def _call(self, method: Callable[..., R], request: object, timeout: float) -> R:
        try:
            return method(request, timeout=timeout, metadata=self._headers)
        except grpc.RpcError as error:
            raise translate(error.code(), error.details() or "", self._address) from error
        except ValueError as error:  # what gRPC says of a channel that was closed
            raise ClientError(f"{self._address}: the client is closed") from error


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
