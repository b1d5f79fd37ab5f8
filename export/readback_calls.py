"""Calls to Triton that loading a model and proving what is served need; each has a deadline."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from bandstop.client.channel import Tls, open_channel
from bandstop.client.errors import ClientError, Overloaded, Restricted
from bandstop.client.messages import from_wire, to_wire
from bandstop.client.status import translate
from bandstop.client.wire import InferReply, InferRequest

Headers = tuple[tuple[str, str], ...]
READY: Final = "READY"
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds.

    Attributes:
        call: for an answer.
        load: for a model to be loaded.
        appear: for a version to be ready after the server said that it has loaded the model.
        settle: for versions that are no longer served to be let go of.
        busy: for a place in the queue of a model that others ask too.
        pause: between two looks.
    """

    call: float = 10.0
    load: float = 300.0
    appear: float = 2.0
    settle: float = 30.0
    busy: float = 30.0
    pause: float = 0.05


@dataclass(frozen=True, slots=True)
class State:
    """What the server says of one version: READY, LOADING, UNLOADING or UNAVAILABLE, and why."""

    name: str
    reason: str


class Calls:
    """One channel to a server; every method raises ClientError, in one line."""

    def __init__(self, url: str, tls: Tls | None, headers: Headers, patience: Patience) -> None:
        """Prepare for the server at `url`; raises InvalidInput where it is no address."""
        self.url, self.headers, self._patience = url, headers, patience
        self._channel = open_channel(url, tls)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def live(self) -> bool:
        """Return whether the server says that it lives."""
        return bool(self._call(self._stub.ServerLive, service_pb2.ServerLiveRequest()).live)

    def states(self, model: str) -> dict[int, State]:
        """Return the versions of `model` that the server knows of."""
        index = self._call(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest())
        return {
            int(found.version): State(found.state, _first_line(found.reason))
            for found in index.models
            if found.name == model and found.version.isdecimal()
        }

    def load(self, model: str) -> None:
        """Make the server take up the model's folder as it is; returns when it has."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        self._call(self._stub.RepositoryModelLoad, request, self._patience.load)

    def unload(self, model: str) -> None:
        """Make the server let go of the model; it finishes what it is asked at the moment."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._call(self._stub.RepositoryModelUnload, request)

    def config(self, model: str, version: str) -> model_config_pb2.ModelConfig:
        """Return the configuration that a version is served with."""
        request = service_pb2.ModelConfigRequest(name=model, version=version)
        return self._call(self._stub.ModelConfig, request).config

    def versions(self, model: str) -> tuple[str, ...]:
        """Return the versions that the server names to clients."""
        request = service_pb2.ModelMetadataRequest(name=model)
        return tuple(self._call(self._stub.ModelMetadata, request).versions)

    def infer(self, request: InferRequest) -> InferReply:
        """Return the server's reply, unchecked; raises ProtocolError where it is none.

        A full queue says nothing about what is served: it is asked again, for `busy` seconds.
        """
        until = time.monotonic() + self._patience.busy
        while True:
            try:
                return from_wire(self._call(self._stub.ModelInfer, to_wire(request)))
            except Overloaded:
                if time.monotonic() > until:
                    raise
                time.sleep(self._patience.pause)

    def _call(self, method: Callable[..., R], request: object, seconds: float = 0.0) -> R:
        try:
            return method(request, timeout=seconds or self._patience.call, metadata=self.headers)
        except grpc.RpcError as error:
            # what follows the first line is the trace of the server's own Python
            raise translate(error.code(), _first_line(error.details() or ""), self.url) from error
        except ValueError as error:  # what gRPC says of a channel that was closed
            raise ClientError(f"{self.url}: the connection is closed") from error


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def explained(error: ClientError, headers: Headers) -> str:
    """Return the failure of a call in one line, with what to do about it."""
    told = str(error)
    if "load / unload is not allowed" in told:
        return (
            f"{told}; the server loads no model by request: start it with "
            "--model-control-mode=explicit, or publish without --url and restart it"
        )
    if not isinstance(error, Restricted):
        return told
    wanted = re.search(r"expecting header '([^']+)'", told)
    header = wanted[1] if wanted else "its header"
    if header in dict(headers):
        return f"{told}; the secret that was sent as {header} is not this server's"
    return f"{told}; the secret for {header} is missing: name the file that holds it, --token-file"
