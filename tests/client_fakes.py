"""A model in NumPy behind the client's transport seam, and behind a real gRPC server."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.client.errors import ClientError
from bandstop.client.wire import (
    DTYPES,
    Config,
    InferReply,
    InferRequest,
    Metadata,
    Tensor,
    TensorSpec,
    encode,
)

LABELS = ("ant", "bee", "cat", "dog", "eel")


@dataclass(frozen=True, slots=True)
class NumpyModel:
    """Says of an image the class whose number is its first pixel's value (0..255).

    The logit of class c is minus the distance of that value from c; a forgotten class has -1e4.
    """

    name: str = "pixel"
    version: str = "1"
    labels: tuple[str, ...] = LABELS
    size: tuple[int, int] = (2, 3)
    channels: int = 3
    slots: int = 0
    allow_none: bool = False
    resize: int | None = None
    interpolation: str = "nearest"
    input: str = "float32"
    max_batch_size: int = 8

    @property
    def metadata(self) -> Metadata:
        uint8 = self.input == "uint8"
        shape = (*self.size, self.channels) if uint8 else (self.channels, *self.size)
        inputs = [TensorSpec("image", "UINT8" if uint8 else "FP32", (-1, *shape))]
        outputs = [TensorSpec("logits", "FP32", (-1, len(self.labels)))]
        if self.slots:
            inputs.append(TensorSpec("forget_class", "INT64", (-1, self.slots)))
            outputs.append(TensorSpec("applied_forget_class", "INT64", (-1, self.slots)))
        return Metadata((self.version,), tuple(inputs), tuple(outputs))

    @property
    def config(self) -> Config:
        preprocess = {
            "size": self.size,
            "channels": self.channels,
            "mean": [0.5] * self.channels,
            "std": [1] * self.channels,
            "resize": self.resize,
            "interpolation": self.interpolation,
            "input": self.input,
        }
        parameters = {
            f"labels.{self.version}": json.dumps(self.labels),
            f"digest.{self.version}": "0" * 63 + self.version[-1],
            f"preprocess.{self.version}": json.dumps(preprocess),
            f"allow_none.{self.version}": json.dumps(self.allow_none),
        }
        return Config(self.max_batch_size, parameters)

    def infer(self, request: InferRequest) -> InferReply:
        inputs = {tensor.name: as_array(tensor) for tensor in request.inputs}
        image = inputs["image"]
        first = image[:, 0, 0, 0].astype(np.float64)
        value = first if self.input == "uint8" else np.rint(first * 255)
        logits = -np.abs(value[:, None] - np.arange(len(self.labels))).astype(np.float32)
        outputs = []
        if self.slots:
            asked = inputs["forget_class"]
            choices = len(self.labels) + self.allow_none
            ok = np.array([all(0 <= c < choices for c in classes) for classes in asked])
            for row, classes in enumerate(asked):
                named = [c for c in classes if 0 <= c < len(self.labels)]
                logits[row, named] = -1e4
            logits[~ok] = np.nan
            outputs = [encode("applied_forget_class", np.where(ok[:, None], asked, -1), "INT64")]
        outputs.append(encode("logits", logits, "FP32"))
        return InferReply(self.name, self.version, tuple(outputs))


def as_array(tensor: Tensor) -> NDArray[Any]:
    return np.frombuffer(tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)


def picture(value: int, size: tuple[int, int] = (2, 3)) -> NDArray[np.uint8]:
    """An image (h, w, 3) that NumpyModel takes for class `value`."""
    return np.full((*size, 3), value, np.uint8)


@dataclass(slots=True)
class FakeTransport:
    """A server in the same process; `before` may raise, or change the model, at each inference."""

    model: NumpyModel
    before: Callable[["FakeTransport"], None] = lambda transport: None
    tamper: Callable[[InferReply], InferReply] = lambda reply: reply
    requests: list[InferRequest] = field(default_factory=list)
    described: int = 0
    closed: bool = False

    def ready(self, model: str, version: str, timeout: float) -> bool:
        return model == self.model.name

    def metadata(self, model: str, version: str, timeout: float) -> Metadata:
        self.described += 1
        return self.model.metadata

    def config(self, model: str, version: str, timeout: float) -> Config:
        return self.model.config

    def infer(self, request: InferRequest, timeout: float) -> InferReply:
        self.requests.append(request)
        self.before(self)
        return self.tamper(self.model.infer(request))

    def start(self, request: InferRequest, timeout: float) -> "Landed":
        try:
            return Landed(self.infer(request, timeout))
        except ClientError as error:
            return Landed(error)

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True, slots=True)
class Landed:
    """An inference that is over when it begins."""

    outcome: InferReply | ClientError

    def result(self) -> InferReply:
        if isinstance(self.outcome, ClientError):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        pass

    def when_done(self, tell: Callable[[], None]) -> None:
        tell()


def failing(*errors: ClientError) -> Callable[[FakeTransport], None]:
    """A `before` that raises `errors`, one an inference, and then lets everything pass."""
    left = list(errors)

    def fail(_: FakeTransport) -> None:
        if left:
            raise left.pop(0)

    return fail


def with_output(reply: InferReply, name: str, **changes: Any) -> InferReply:
    """`reply` with fields of its output `name` changed."""
    outputs = [t._replace(**changes) if t.name == name else t for t in reply.outputs]
    return reply._replace(outputs=tuple(outputs))


@dataclass(slots=True)
class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped base
    """NumpyModel behind Triton's messages; `before` may abort, `tamper` changes a reply."""

    model: NumpyModel
    before: Callable[[grpc.ServicerContext], None] = lambda context: None
    tamper: Callable[[service_pb2.ModelInferResponse], None] = lambda message: None
    calls: int = 0

    def ModelReady(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        metadata = self.model.metadata
        message = service_pb2.ModelMetadataResponse(name="pixel", versions=metadata.versions)
        for spec in metadata.inputs:
            message.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        for spec in metadata.outputs:
            message.outputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return message

    def ModelConfig(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        message = service_pb2.ModelConfigResponse()
        message.config.max_batch_size = self.model.config.max_batch_size
        for key, value in self.model.config.parameters.items():
            message.config.parameters[key].string_value = value
        return message

    def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> object:
        self.calls += 1
        self.before(context)
        inputs = tuple(
            Tensor(t.name, t.datatype, tuple(t.shape), data)
            for t, data in zip(request.inputs, request.raw_input_contents, strict=True)
        )
        outputs = tuple(t.name for t in request.outputs)
        asked = InferRequest(request.model_name, request.model_version, inputs, outputs)
        reply = self.model.infer(asked)
        message = service_pb2.ModelInferResponse(
            model_name=reply.model, model_version=reply.version
        )
        for tensor in reply.outputs:
            message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            message.raw_output_contents.append(tensor.data)
        self.tamper(message)
        return message


@dataclass(frozen=True, slots=True)
class Server:
    """A servicer and where it is served."""

    servicer: Servicer
    address: str


@contextmanager
def grpc_server(servicer: Servicer, address: str = "127.0.0.1:0") -> Iterator[str]:
    """Serve on loopback; yields the address."""
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}" if address.endswith(":0") else address
    finally:
        server.stop(None).wait()


def stuck(release: Event) -> Callable[[grpc.ServicerContext], None]:
    """A `before` that never answers while the test runs."""

    def wait(_: grpc.ServicerContext) -> None:
        release.wait(30)

    return wait
