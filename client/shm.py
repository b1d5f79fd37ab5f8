"""The transports with large inputs in shared memory, for a server of the same host."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client.aio import AioTransport
from bandstop.client.channel import Tls, target
from bandstop.client.headers import Headers
from bandstop.client.regions import Regions
from bandstop.client.sharing import (
    Done,
    Leave,
    Send,
    Share,
    Step,
    Steps,
    conversation,
    leave,
    resume,
)
from bandstop.client.transport import GrpcTransport, Pending
from bandstop.client.wire import InferReply, InferRequest

WAIT_S = 1.0  # for a server to take or to leave a region, which it does in a thousandth
_PAUSE_S = 0.02
T = TypeVar("T")
Method: TypeAlias = Callable[..., Any]  # gRPC's, untyped
Message: TypeAlias = (
    service_pb2.SystemSharedMemoryRegisterRequest | service_pb2.SystemSharedMemoryUnregisterRequest
)


class ShmTransport(GrpcTransport):
    """The blocking transport with shared memory."""

    def __init__(self, url: str, tls: Tls | None, headers: Headers, most: int) -> None:
        """As GrpcTransport, with at most `most` regions; what finds none goes by the wire."""
        super().__init__(url, tls, headers)
        self._regions = _regions(url, most)

    def infer(self, request: InferRequest, timeout: float) -> InferReply:
        """Return the server's reply, unchecked."""
        steps = conversation(request, self._regions)
        return self._finish(steps, resume(steps), time.monotonic() + timeout)

    def start(self, request: InferRequest, timeout: float) -> Pending:
        """Begin an inference and do not wait for it."""
        steps, until = conversation(request, self._regions), time.monotonic() + timeout
        step = resume(steps)
        while not isinstance(step, Send | Done):
            step = self._after(steps, step, until)
        assert isinstance(step, Send)  # nothing is answered before it is sent
        try:
            pending = super().start(step.request, _left(until))
        except BaseException:
            steps.close()
            raise
        return _ShmPending(pending, steps, lambda step: self._finish(steps, step, until))

    def close(self) -> None:
        """Have the server let go of the memory, and let go of the connection."""
        self._regions.stop()
        until = time.monotonic() + WAIT_S
        try:
            while self._leave(until) and time.monotonic() < until:
                time.sleep(_PAUSE_S)
        finally:
            super().close()

    def _leave(self, until: float) -> bool:
        steps = leave(self._regions)
        return self._finish(steps, resume(steps), until)

    def _finish(self, steps: Steps[T], step: Step | Done[T], until: float) -> T:
        while not isinstance(step, Done):
            step = self._after(steps, step, until)
        return step.value

    def _after(self, steps: Steps[T], step: Step, until: float) -> Step | Done[T]:
        """Take `step`, and return what comes after it."""
        try:
            result = self._take(step, until)
        except BaseException as error:  # the steps decide what to make of it
            return resume(steps, error=error)
        return resume(steps, result)

    def _take(self, step: Step, until: float) -> InferReply | None:
        if isinstance(step, Send):
            return super().infer(step.request, _left(until))
        self._call(_method(self._stub, step), _message(step), min(WAIT_S, _left(until)))
        return None


@dataclass(frozen=True, slots=True)
class _ShmPending:
    pending: Pending
    steps: Steps[InferReply]
    finish: Callable[[Step | Done[InferReply]], InferReply]

    def result(self) -> InferReply:
        try:
            reply = self.pending.result()
        except BaseException as error:  # the steps decide what to make of it
            return self.finish(resume(self.steps, error=error))
        return self.finish(resume(self.steps, reply))

    def cancel(self) -> None:
        self.pending.cancel()
        self.steps.close()

    def when_done(self, tell: Callable[[], None]) -> None:
        self.pending.when_done(tell)


class AioShmTransport(AioTransport):
    """The asyncio transport with shared memory."""

    def __init__(self, url: str, tls: Tls | None, headers: Headers, most: int) -> None:
        """As AioTransport, with at most `most` regions; what finds none goes by the wire."""
        super().__init__(url, tls, headers)
        self._regions = _regions(url, most)

    async def infer(self, request: InferRequest, timeout: float) -> InferReply:
        """Return the server's reply, unchecked."""
        steps = conversation(request, self._regions)
        return await self._finish(steps, time.monotonic() + timeout)

    async def close(self) -> None:
        """Have the server let go of the memory, and let go of the connection."""
        self._regions.stop()
        until = time.monotonic() + WAIT_S
        try:
            while await self._finish(leave(self._regions), until) and time.monotonic() < until:
                await asyncio.sleep(_PAUSE_S)
        finally:
            await super().close()

    async def _finish(self, steps: Steps[T], until: float) -> T:
        step = resume(steps)
        while not isinstance(step, Done):
            try:
                result = await self._take(step, until)
            except BaseException as error:  # the steps decide what to make of it
                step = resume(steps, error=error)
            else:
                step = resume(steps, result)
        return step.value

    async def _take(self, step: Step, until: float) -> InferReply | None:
        if isinstance(step, Send):
            return await super().infer(step.request, _left(until))
        await self._call(_method(self._opened(), step), _message(step), min(WAIT_S, _left(until)))
        return None


def _regions(url: str, most: int) -> Regions:
    # Of several servers one is told of a region, and another may be sent the request.
    return Regions(0 if target(url).startswith(("dns:", "ipv4:")) else most)


def _method(stub: service_pb2_grpc.GRPCInferenceServiceStub, step: Share | Leave) -> Method:
    found: Method = (
        stub.SystemSharedMemoryRegister
        if isinstance(step, Share)
        else stub.SystemSharedMemoryUnregister
    )
    return found


def _message(step: Share | Leave) -> Message:
    if isinstance(step, Leave):  # without a name it would mean all regions of all clients
        return service_pb2.SystemSharedMemoryUnregisterRequest(name=step.name)
    name, size = step.region.name, len(step.region.memory)
    return service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", byte_size=size)


def _left(until: float) -> float:
    return max(0.001, until - time.monotonic())
