"""The way to a server: one seam, a gRPC implementation of it, and addresses."""

import re
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client.errors import ClientError, InvalidInput, ProtocolError
from bandstop.client.status import translate
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata, Tensor, TensorSpec

R = TypeVar("R")

LARGEST_MESSAGE = 2**31 - 1
# A channel that is given any option loses the defaults of Triton's client: here is the whole set.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    # Only while a call is open; Triton hangs up on clients that ping without one.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # gRPC waits up to two minutes before it looks again for a server that restarts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The back-off of another client in this process is not to delay this one.
    ("grpc.use_local_subchannel_pool", 1),
)


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

    def __init__(self, url: str) -> None:
        """Prepare for the server at `url`; raises InvalidInput where it is no address."""
        self._address = url
        self._channel = grpc.insecure_channel(target(url), options=CHANNEL_OPTIONS)
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
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise translate(error.code(), error.details() or "", self._address) from error
        except ValueError as error:  # what gRPC says of a channel that was closed
            raise ClientError(f"{self._address}: the client is closed") from error


def target(url: str) -> str:
    """Return gRPC's name for `url`: host:port, grpc://host:port or unix:/path.

    Raises:
        InvalidInput: it is none of these.
    """
    address = url.removeprefix("grpc://")
    scheme, _, rest = address.partition(":")
    if scheme in ("unix", "dns"):
        known = bool(rest)
    else:
        host = r"(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\])"
        match = re.fullmatch(host + r":([0-9]{1,5})", address)
        known = match is not None and 0 < int(match[1]) < 2**16
    if not known:
        raise InvalidInput(
            f"url {url!r}: expected host:port, grpc://host:port or unix:/path of Triton's gRPC "
            "port (8001 by default)"
        )
    return address


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
