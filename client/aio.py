"""The way to a server for asyncio; a channel belongs to one event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client.channel import Tls, credentials, open_aio_channel, target
from bandstop.client.errors import ClientError
from bandstop.client.headers import Headers, sendable
from bandstop.client.layout import ReplyReader
from bandstop.client.messages import INFER, to_bytes, to_config, to_metadata
from bandstop.client.status import failure
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata

R = TypeVar("R")


class AsyncTransport(Protocol):
    """Carries single calls to one server, as Transport does; a cancelled call tells the server."""

    async def ready(self, model: str, version: str, timeout: float) -> bool:
        """Return whether the server says that the model can be asked."""
        ...

    async def metadata(self, model: str, version: str, timeout: float) -> Metadata:
        """Return the tensors and the versions of a model."""
        ...

    async def config(self, model: str, version: str, timeout: float) -> Config:
        """Return the configuration of a model."""
        ...

    async def infer(self, request: InferRequest, timeout: float) -> InferReply:
        """Return the server's reply, unchecked."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class AioTransport:
    """Triton's gRPC protocol over one asyncio channel, which is opened when it is first used."""

    def __init__(self, url: str, tls: Tls | None = None, headers: Headers = ()) -> None:
        """Prepare for the server at `url`; arguments and errors as for GrpcTransport."""
        target(url)
        if tls is not None:
            credentials(tls)
        self._address, self._tls = url, tls
        self._headers = headers if callable(headers) else sendable(headers)
        self._channel: grpc.aio.Channel | None = None
        self._stub: service_pb2_grpc.GRPCInferenceServiceStub | None = None
        self._replies = ReplyReader()
        self._infer: grpc.aio.UnaryUnaryMultiCallable | None = None
        self._closed = False

    async def ready(self, model: str, version: str, timeout: float) -> bool:
        """Return whether the server says that the model can be asked."""
        request = service_pb2.ModelReadyRequest(name=model, version=version)
        return bool((await self._call(self._opened().ModelReady, request, timeout)).ready)

    async def metadata(self, model: str, version: str, timeout: float) -> Metadata:
        """Return the tensors and the versions of a model."""
        request = service_pb2.ModelMetadataRequest(name=model, version=version)
        return to_metadata(await self._call(self._opened().ModelMetadata, request, timeout))

    async def config(self, model: str, version: str, timeout: float) -> Config:
        """Return the configuration of a model."""
        request = service_pb2.ModelConfigRequest(name=model, version=version)
        return to_config(await self._call(self._opened().ModelConfig, request, timeout))

    async def infer(self, request: InferRequest, timeout: float) -> InferReply:
        """Return the server's reply, unchecked."""
        self._opened()
        assert self._infer is not None
        return self._replies.read(await self._call(self._infer, to_bytes(request), timeout))

    async def close(self) -> None:
        """Let go of the connection; calls under way fail."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    def _opened(self) -> service_pb2_grpc.GRPCInferenceServiceStub:
        if self._closed:
            raise ClientError(f"{self._address}: the client is closed")
        if self._stub is None:
            self._channel = open_aio_channel(self._address, self._tls)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
            self._infer = self._channel.unary_unary(INFER)  # bytes there and back
        return self._stub

    async def _call(
        self, method: Callable[..., Awaitable[R]], request: object, timeout: float
    ) -> R:
        headers = sendable(self._headers()) if callable(self._headers) else self._headers
        try:
            return await method(request, timeout=timeout, metadata=headers)
        except (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError) as error:
            raise failure(error, self._address) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            # gRPC cancels what is under way when its channel closes; nobody cancelled the caller.
            raise ClientError(f"{self._address}: the client is closed") from error
