"""The way to a server: one seam, and a gRPC implementation of it."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Protocol, TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client.channel import Tls, open_channel
from bandstop.client.errors import ClientError, Unavailable
from bandstop.client.headers import Headers, sendable
from bandstop.client.layout import ReplyReader
from bandstop.client.messages import INFER, to_bytes, to_config, to_metadata
from bandstop.client.status import failure
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata

R = TypeVar("R")


class Pending(Protocol):
    """An inference under way."""

    def result(self) -> InferReply:
        """Return the reply once it is there; raises ClientError where there will be none."""
        ...

    def cancel(self) -> None:
        """Give it up; the server is told."""
        ...

    def when_done(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the result is there, at once if it is; from any thread."""
        ...


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

    def start(self, request: InferRequest, timeout: float) -> Pending:
        """Begin an inference and do not wait for it."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class GrpcTransport:
    """Triton's gRPC protocol over one channel, which connects when it is first used."""

    def __init__(self, url: str, tls: Tls | None = None, headers: Headers = ()) -> None:
        """Prepare for the server at `url`; raises InvalidInput where it is no address.

        Args:
            url: see `open_channel`.
            tls: see `open_channel`.
            headers: metadata sent with every call, such as a token; a function is asked each time.
        """
        self._address, self._headers = url, headers if callable(headers) else sendable(headers)
        self._tls, self._closed = tls, False
        self._replies = ReplyReader()
        self._open()

    def ready(self, model: str, version: str, timeout: float) -> bool:
        """Return whether the server says that the model can be asked."""
        request = service_pb2.ModelReadyRequest(name=model, version=version)
        return bool(self._call(self._stub.ModelReady, request, timeout).ready)

    def metadata(self, model: str, version: str, timeout: float) -> Metadata:
        """Return the tensors and the versions of a model."""
        request = service_pb2.ModelMetadataRequest(name=model, version=version)
        return to_metadata(self._call(self._stub.ModelMetadata, request, timeout))

    def config(self, model: str, version: str, timeout: float) -> Config:
        """Return the configuration of a model."""
        request = service_pb2.ModelConfigRequest(name=model, version=version)
        return to_config(self._call(self._stub.ModelConfig, request, timeout))

    def infer(self, request: InferRequest, timeout: float) -> InferReply:
        """Return the server's reply, unchecked."""
        return self._replies.read(self._call(self._infer, to_bytes(request), timeout))

    def start(self, request: InferRequest, timeout: float) -> Pending:
        """Begin an inference and do not wait for it."""
        call = self._call(self._infer.future, to_bytes(request), timeout)
        return _GrpcPending(call, self)

    def close(self) -> None:
        """Let go of the connection; calls under way fail."""
        self._closed = True
        self._channel.close()

    def read(self, call: grpc.Future) -> InferReply:
        """Return what `call` comes to; raises ClientError where that is no reply."""
        try:
            return self._replies.read(call.result())
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            raise self._failure(error) from error

    def _open(self) -> None:
        self._channel = open_channel(self._address, self._tls)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = self._channel.unary_unary(INFER)  # bytes there and back

    def _call(self, method: Callable[..., R], request: object, timeout: float) -> R:
        headers = sendable(self._headers()) if callable(self._headers) else self._headers
        try:
            return method(request, timeout=timeout, metadata=headers)
        except (grpc.RpcError, ValueError) as error:
            raise self._failure(error) from error
        except BaseException:
            # Ctrl-C. If it struck while gRPC began the call, its count of calls is wrong: nobody
            # may ever read the end of one, and close() waits for that. What others have under way
            # on this channel they try again on the next.
            Thread(target=self._channel.close, daemon=True).start()
            self._open()
            raise

    def _failure(self, error: Exception) -> ClientError:
        if not self._closed and isinstance(error, grpc.FutureCancelledError):
            return Unavailable(f"{self._address}: the connection was broken off by an interruption")
        return failure(error, self._address)


@dataclass(frozen=True, slots=True)
class _GrpcPending:
    call: grpc.Future
    transport: GrpcTransport

    def result(self) -> InferReply:
        return self.transport.read(self.call)

    def cancel(self) -> None:
        self.call.cancel()

    def when_done(self, tell: Callable[[], None]) -> None:
        self.call.add_done_callback(lambda _: tell())
