"""What a server says about itself and its models; every call has a deadline."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client.channel import credentials, target
from bandstop.client.errors import InvalidInput
from bandstop.client.status import translate
from bandstop.serve.access import Access
from bandstop.serve.errors import NotServed
from bandstop.serve.probe import Finding, Health, of_error, of_reply, request

_CALL_S = 2.0
_LOAD_S = 60.0
_LIVE_S = 1.0
MOST_AT_ONCE = 8  # probes of one version
R = TypeVar("R")


class NoAnswer(NotServed):
    """The server does not answer in time, or not at all."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model, as the server lists it.

    Attributes:
        model: its name.
        version: its number; "" for a model without any.
        state: READY, LOADING, UNLOADING, UNAVAILABLE or "".
        reason: why it is not ready.
    """

    model: str
    version: str
    state: str
    reason: str

    @property
    def name(self) -> str:
        """The model and its version, for a message."""
        return f"{self.model} version {self.version}" if self.version else self.model


class Link:
    """A connection of our own to a server."""

    def __init__(self, access: Access) -> None:
        """Prepare for the server; it is first used by a call."""
        self._access = access
        address, options = target(access.url), access.channel_options
        self._channel = (
            grpc.secure_channel(address, credentials(access.tls), options=options)
            if access.tls
            else grpc.insecure_channel(address, options=options)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        """Return the link itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the connection."""
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def live(self) -> bool:
        """Return whether it answers at all."""
        try:
            return bool(
                self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=_LIVE_S).live
            )
        except grpc.RpcError:
            return False

    def index(self) -> list[Version]:
        """Return all versions of all models that the server knows.

        Raises:
            NoAnswer: it does not answer.
            NotServed: it refuses.
        """
        reply = self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest())
        return [Version(m.name, m.version, m.state, m.reason) for m in reply.models]

    def probe(self, versions: list[Version], seconds: float) -> dict[Version, Finding]:
        """Ask all `versions` at once, each as often as it has instances; return the worst reply."""
        asked = {version: self._asked(version, seconds) for version in versions}
        return {
            version: max(map(_found, calls), key=lambda finding: finding.health)
            if isinstance(calls, list)
            else calls
            for version, calls in asked.items()
        }

    def executions(self, version: Version) -> int:
        """Return how often `version` has run; -1 where that is not known."""
        asked = service_pb2.ModelStatisticsRequest(name=version.model, version=version.version)
        try:
            stats = self._call(self._stub.ModelStatistics, asked).model_stats
        except NotServed:
            return -1
        return sum(int(one.execution_count) for one in stats)

    def unload(self, model: str) -> None:
        """Have the server let go of `model`, which goes on after this call."""
        asked = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._call(self._stub.RepositoryModelUnload, asked, _LOAD_S)

    def load(self, model: str) -> None:
        """Have the server take up `model`; return when it has."""
        asked = service_pb2.RepositoryModelLoadRequest(model_name=model)
        self._call(self._stub.RepositoryModelLoad, asked, _LOAD_S)

    def _asked(self, version: Version, seconds: float) -> list[grpc.Future] | Finding:
        names = {"name": version.model, "version": version.version}
        try:
            metadata = self._stub.ModelMetadata(
                service_pb2.ModelMetadataRequest(**names), timeout=_CALL_S
            )
            config = self._stub.ModelConfig(
                service_pb2.ModelConfigRequest(**names), timeout=_CALL_S
            ).config
        except grpc.RpcError as error:
            return of_error(error)
        asked = request(version.version, metadata)
        if asked is None:
            return Finding(Health.WELL, "takes inputs that cannot be made up")
        count = min(max(1, sum(g.count for g in config.instance_group)), MOST_AT_ONCE)
        return [self._stub.ModelInfer.future(asked, timeout=seconds) for _ in range(count)]

    def _call(self, method: Callable[..., R], asked: object, seconds: float = _CALL_S) -> R:
        headers = tuple(self._access.headers.items())
        try:
            return method(asked, timeout=seconds, metadata=headers)
        except grpc.RpcError as error:
            kind = NoAnswer if error.code() in _SILENT else NotServed
            told = translate(error.code(), error.details() or "", self._access.url)
            raise kind(str(told).partition("; ")[0]) from error


_SILENT = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


def linked(access: Access) -> Link:
    """Return a link to the server.

    Raises:
        NotServed: the files of its TLS cannot be used.
    """
    try:
        return Link(access)
    except InvalidInput as error:
        raise NotServed(str(error)) from error


def _found(call: grpc.Future) -> Finding:
    try:
        return of_reply(call.result())
    except grpc.RpcError as error:
        return of_error(error)
    except grpc.FutureCancelledError:
        return Finding(Health.DOWN, "cancelled")
