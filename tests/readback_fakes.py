"""Releases with a canary, and a Triton in Python that serves them and can be made to go wrong."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from onnx import numpy_helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.export.canary_make import make_canary
from bandstop.export.config import config_text, labels_text
from bandstop.export.errors import NotServed
from bandstop.export.readback import TritonServer, server_at
from bandstop.export.readback_calls import Patience
from bandstop.export.record import (
    CONFIG,
    LABELS,
    RECORD,
    FileName,
    ReleaseRecord,
    describe,
    record_bytes,
)
from bandstop.export.record import MODEL as FILE
from bandstop.export.session import CPU
from tests.releases import record
from tests.whole_releases import NAMES, graph

MODEL = "digits"


@dataclass(frozen=True, slots=True)
class Made:
    """A release's record and its file."""

    record: ReleaseRecord
    file: bytes


def made(mode: str = "gated", seed: int = 0, *, canary: bool = True, scale: float = 0.2) -> Made:
    """Return a release around a small graph with weights of its own."""
    model = graph(mode)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = rng.normal(size=tuple(tensor.dims)).astype(np.float32) * np.float32(scale)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    file = model.SerializeToString()
    plain = record(file, names=NAMES[mode], mode=mode)
    answers = make_canary(file, plain.inputs, plain.outputs, plain.forget, 1e-4, None)
    return Made(plain.model_copy(update={"canary": answers if canary else None}), file)


def write_release(folder: Path, release: Made) -> Path:
    """Write `release` as the folder that `bandstop export` would."""
    facts = release.record
    files: dict[FileName, bytes] = {
        FILE: release.file,
        LABELS: labels_text(facts.class_names).encode(),
        CONFIG: config_text(facts.name, {1: facts}).encode(),
    }
    whole = facts.model_copy(update={"files": describe(files)})
    folder.mkdir()
    (folder / RECORD).write_bytes(record_bytes(whole))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


Reply: TypeAlias = service_pb2.ModelInferResponse


@dataclass(slots=True)
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # untyped base
    """Serves `files` by ONNX Runtime.

    Attributes:
        files: version -> bytes of its model.
        config: version -> release, as the configuration has it.
        states: version -> what the index says.
        default: the version that answers where a request names none.
        looks: called at each look into the index, with its number.
        before: called before each call with its name; may abort it.
        tamper: changes the answer to an inference.
        metadata: the versions that are named to clients; None names those that are ready.
        kept: version -> the configuration of its time, where it keeps it.
        calls: names of the calls, in order.
    """

    files: dict[int, bytes]
    config: dict[int, ReleaseRecord]
    states: dict[int, str]
    default: int
    looks: Callable[[int], None] = lambda number: None
    before: Callable[[str, grpc.ServicerContext], None] = lambda name, context: None
    tamper: Callable[[str, Reply], None] = lambda asked, reply: None
    metadata: tuple[str, ...] | None = None
    kept: dict[str, dict[int, ReleaseRecord]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def _begin(self, name: str, context: grpc.ServicerContext) -> None:
        self.calls.append(name)
        self.before(name, context)

    def ServerLive(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        self._begin("live", context)
        return service_pb2.ServerLiveResponse(live=True)

    def RepositoryIndex(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        self._begin("index", context)
        self.looks(self.calls.count("index"))
        reply = service_pb2.RepositoryIndexResponse()
        reply.models.add(name="another", version="9", state="READY")
        reply.models.add(name="never-loaded")
        for version, state in self.states.items():
            reply.models.add(name=MODEL, version=str(version), state=state, reason="why\nAt: x")
        return reply

    def RepositoryModelLoad(self, request: object, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        self._begin("load", context)
        return service_pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(  # noqa: N802 - the protocol's name
        self, request: service_pb2.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> object:
        self._begin("unload", context)
        if request.model_name == MODEL:
            self.states = dict.fromkeys(self.states, "UNLOADING")
        return service_pb2.RepositoryModelUnloadResponse()

    def ModelConfig(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelConfigRequest, context: grpc.ServicerContext
    ) -> object:
        self._begin("config", context)
        self._refuse_unknown(request.name, request.version, context)
        reply = service_pb2.ModelConfigResponse()
        config = self.kept.get(request.version, self.config)
        text_format.Parse(config_text(MODEL, config), reply.config)
        return reply

    def ModelMetadata(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> object:
        self._begin("metadata", context)
        self._refuse_unknown(request.name, request.version, context)
        ready = [str(v) for v, state in self.states.items() if state == "READY"]
        return service_pb2.ModelMetadataResponse(name=MODEL, versions=self.metadata or ready)

    def ModelInfer(  # noqa: N802 - the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> object:
        self._begin("infer", context)
        self._refuse_unknown(request.model_name, request.model_version, context)
        version = int(request.model_version or self.default)
        types = {"FP32": np.float32, "INT64": np.int64}
        fed = {
            tensor.name: np.frombuffer(data, types[tensor.datatype]).reshape(tensor.shape)
            for tensor, data in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        runs = ort.InferenceSession(self.files[version], providers=[CPU])
        reply = Reply(model_name=MODEL, model_version=str(version))
        for spec, array in zip(runs.get_outputs(), runs.run(None, fed), strict=True):
            kind = "FP32" if array.dtype == np.float32 else "INT64"
            reply.outputs.add(name=spec.name, datatype=kind, shape=array.shape)
            reply.raw_output_contents.append(array.tobytes())
        self.tamper(request.model_version, reply)
        return reply

    def _refuse_unknown(self, model: str, version: str, context: grpc.ServicerContext) -> None:
        if model != MODEL or (version and self.states.get(int(version)) != "READY"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: '{model}' is not found")


def serving(**versions: Made) -> FakeTriton:
    """Return a server on which exactly `versions` (v1=..., v2=...) are ready."""
    numbered = {int(name[1:]): release for name, release in versions.items()}
    return FakeTriton(
        files={v: release.file for v, release in numbered.items()},
        config={v: release.record for v, release in numbered.items()},
        states=dict.fromkeys(numbered, "READY"),
        default=max(numbered),
    )


@contextmanager
def reachable(fake: FakeTriton, folder: Path) -> Iterator[tuple[str, grpc.Server]]:
    """Serve `fake` on a unix socket in `folder`; yields the url, and the server itself."""
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    url = f"unix:{folder}/s"
    server.add_insecure_port(url)
    server.start()
    try:
        yield url, server
    finally:
        server.stop(None).wait()


OLD, NEW, OTHER = made(seed=1), made(seed=2), made(seed=3)
SHORT = Patience(call=0.5, load=0.5, appear=0.1, settle=0.4, busy=0.2, pause=0.01)
Spoil: TypeAlias = Callable[[FakeTriton], None]


@dataclass(frozen=True, slots=True)
class Served:
    """A fake, what proves it, and what runs it."""

    fake: FakeTriton
    proves: TritonServer
    runs: grpc.Server


@contextmanager
def one_of_two(folder: Path) -> Iterator[Served]:
    """Serve version 2 of two, impatiently looked at."""
    fake = serving(v2=NEW)
    fake.files[1] = OLD.file
    with reachable(fake, folder) as (url, runs), server_at(url, patience=SHORT) as server:
        yield Served(fake, server, runs)


def missed(served: Served) -> str:
    """Return why version 2 is not proved."""
    with pytest.raises(NotServed) as caught:
        served.proves.prove(MODEL, {2: NEW.record})
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    return str(caught.value)
