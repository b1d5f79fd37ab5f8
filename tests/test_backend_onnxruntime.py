"""The backend's own functions, with the server's Python interface played by a small fake."""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from bandstop.serve.install import OUR_BACKEND

F32, I64 = "tensor(float)", "tensor(int64)"
BAD = 99  # an index that Gather refuses


@dataclass(frozen=True)
class Tensor:
    name: str
    array: Any

    def as_numpy(self) -> Any:
        return self.array


@dataclass(frozen=True)
class Request:
    inputs: dict[str, Any]
    wanted: Sequence[str] = ("row",)

    def requested_output_names(self) -> Sequence[str]:
        return self.wanted


@dataclass(frozen=True)
class Response:
    output_tensors: Sequence[Tensor] = ()
    error: Any = None


@dataclass
class Completed:
    """What the server gives to `auto_complete_config`."""

    config: dict[str, Any]
    batching: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return self.config

    def set_dynamic_batching(self) -> None:
        self.batching.append("dynamic")


class TritonError(Exception):
    INTERNAL = 13

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class TritonModelException(Exception):  # noqa: N818  # the server's name
    pass


def _input(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.inputs[name]) if name in request.inputs else None


@pytest.fixture
def server(tmp_path: Path) -> ModuleType:
    fake = ModuleType("triton_python_backend_utils")
    vars(fake).update(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        get_input_tensor_by_name=_input,
        get_model_dir=lambda: str(tmp_path / "1"),
    )
    return fake


@pytest.fixture
def backend(server: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend's module, as the server would import it."""
    monkeypatch.setitem(sys.modules, server.__name__, server)
    spec = importlib.util.spec_from_file_location("backend_under_test", OUR_BACKEND)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def port(name: str, kind: str, *shape: int | str | None) -> Any:
    """A graph's input or output as ONNX Runtime tells it."""
    return SimpleNamespace(name=name, type=kind, shape=list(shape))


def entry(name: str, kind: str, *dims: int | str, **more: object) -> dict[str, object]:
    return {"name": name, "data_type": kind, "dims": list(dims), **more}


def config(batch: int, inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    return {"max_batch_size": batch, "input": list(inputs), "output": list(outputs)}


# --- rows


def test_split_undoes_joined(backend: Any) -> None:
    rng = np.random.default_rng(0)
    feeds = [
        {"image": rng.normal(size=(n, 3)), "forget": np.full((n, 1), n, np.int64)}
        for n in (1, 4, 2)
    ]
    together = backend.joined(feeds)
    assert together["image"].shape == (7, 3)
    assert together["forget"].dtype == np.int64
    parts = backend.split([together["image"], together["forget"]], [1, 4, 2])
    for feed, (image, forget) in zip(feeds, parts, strict=True):
        np.testing.assert_array_equal(image, feed["image"])
        np.testing.assert_array_equal(forget, feed["forget"])


def test_a_single_feed_is_not_copied(backend: Any) -> None:
    feed = {"image": np.zeros((2, 3))}
    assert backend.joined([feed]) is feed


def test_an_output_without_a_row_for_each_is_not_split(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"outputs of \[3, 1\] rows for 3 rows"):
        backend.split([np.zeros((3, 2)), np.zeros((1, 2))], [1, 2])


# --- configuration


def test_all_misfits_are_told_at_once(backend: Any) -> None:
    wrong = backend.misfits(
        config(
            8,
            [entry("image", "TYPE_UINT8", "3", 5, 4), entry("mask", "TYPE_FP32", 1)],
            [entry("scores", "TYPE_FP32", 10), entry("fixed", "TYPE_FP32", 10)],
        ),
        [port("image", F32, "N", 3, 4, 4), port("forget", I64, "N", 1)],
        [port("logits", F32, "N", 10), port("fixed", F32, 1, 10)],
    )
    assert wrong == [
        "input forget of the graph is not declared",
        "input image: TYPE_UINT8, graph tensor(float)",
        "input image: shape [-1, 3, 5, 4], graph [-1, 3, 4, 4]",
        "input mask is not in the graph, which has ['forget', 'image']",
        "output scores is not in the graph, which has ['fixed', 'logits']",
        "output fixed: max_batch_size needs a first dimension that varies, graph [1, 10]",
    ]


@pytest.mark.parametrize(
    ("batch", "declared", "graph"),
    [
        (8, entry("x", "TYPE_FP32", "3", "4"), port("x", F32, "N", 3, 4)),
        (8, entry("x", "TYPE_FP32", 3, 4), port("x", F32, None, "C", 4)),
        (8, entry("x", "TYPE_INT64", 1, reshape={"shape": []}), port("x", I64, "N")),
        (8, entry("x", "TYPE_INT64", 1, reshape={}), port("x", I64, "N")),  # JSON leaves [] out
        (0, entry("x", "TYPE_FP32", 1, 3), port("x", F32, 1, 3)),
    ],
)
def test_what_fits_is_not_refused(backend: Any, batch: int, declared: Any, graph: Any) -> None:
    assert backend.misfits(config(batch, [declared], [declared]), [graph], [graph]) == []


@pytest.mark.parametrize(
    ("declared", "graph", "expected"),
    [
        (entry("x", "TYPE_FP32", -1, 4), port("x", F32, "N", 3, 4), "[-1, -1, 4]"),
        (entry("x", "TYPE_FP32", 3), port("x", F32, "N", 3, 4), "[-1, 3]"),
        (entry("x", "TYPE_FP32", 3), port("x", F32, 1, 3), "varies"),
        (entry("x", "TYPE_FP32", 3), port("x", "tensor(string)", "N", 3), "tensor(string)"),
    ],
    ids=["wildcard for a fixed size", "rank", "fixed batch", "a type that is not served"],
)
def test_what_the_cpp_backend_refuses_is_refused(
    backend: Any, declared: Any, graph: Any, expected: str
) -> None:
    wrong = backend.misfits(config(8, [declared], [declared]), [graph], [graph])
    assert len(wrong) == 2  # once as an input, once as an output
    assert all(expected in text for text in wrong)


def test_a_model_without_declared_outputs_is_refused(backend: Any) -> None:
    x = port("x", F32, "N", 3)
    assert backend.misfits(config(8, [entry("x", "TYPE_FP32", 3)], []), [x], [x]) == [
        "no output is declared, the graph has ['x']"
    ]


def test_declarations_are_what_the_cpp_backend_completes(backend: Any) -> None:
    assert backend.declaration(port("image", F32, "N", 3, "H", 4), batched=True) == (
        entry("image", "TYPE_FP32", 3, -1, 4)
    )
    assert backend.declaration(port("forget", I64, "N"), batched=True) == (
        entry("forget", "TYPE_INT64", 1, reshape={"shape": []})
    )
    assert backend.declaration(port("x", F32, 1, 3), batched=False) == entry("x", "TYPE_FP32", 1, 3)


def test_session_options_are_read_by_the_cpp_backends_keys(backend: Any) -> None:
    given = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "0",
    }
    options = backend.session_options(
        {
            "parameters": {key: {"string_value": value} for key, value in given.items()},
            "optimization": {"graph": {"level": 2}},
        }
    )
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


@pytest.mark.parametrize(
    ("level", "name"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED")],
)
def test_graph_levels_are_the_cpp_backends(backend: Any, level: int, name: str) -> None:
    options = backend.session_options({"optimization": {"graph": {"level": level}}})
    assert options.graph_optimization_level == getattr(ort.GraphOptimizationLevel, name)


def test_session_options_without_parameters_are_the_defaults(backend: Any) -> None:
    options, plain = backend.session_options({}), ort.SessionOptions()
    for name in ("intra_op_num_threads", "inter_op_num_threads", "execution_mode"):
        assert getattr(options, name) == getattr(plain, name)
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (True, True)
    assert options.log_severity_level == backend.FATAL


def test_a_parameter_that_is_no_number_is_named(backend: Any, server: ModuleType) -> None:
    with pytest.raises(TritonModelException, match=r"intra_op_thread_count.*'two'"):
        backend.session_options({"parameters": {"intra_op_thread_count": {"string_value": "two"}}})
    with pytest.raises(TritonModelException, match="level 7"):
        backend.session_options({"optimization": {"graph": {"level": 7}}})


# --- a model


def save_lookup(folder: Path, shape: Sequence[int | str]) -> None:
    """Write a graph that gives row `index` of a table, and fails for an index out of range."""
    table = onnx.numpy_helper.from_array(np.arange(30, dtype=np.float32).reshape(10, 3), "table")
    nodes = [
        helper.make_node("Reshape", ["index", "flat"], ["which"]),
        helper.make_node("Gather", ["table", "which"], ["row"]),
        helper.make_node("Identity", ["which"], ["echo"]),
    ]
    flat = onnx.numpy_helper.from_array(np.array([-1]), "flat")
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, shape)],
        [
            helper.make_tensor_value_info("row", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("echo", TensorProto.INT64, ["N"]),
        ],
        [table, flat],
    )
    opset = [helper.make_opsetid("", 18)]
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")


def opened(backend: Any, root: Path, configuration: dict[str, Any]) -> Any:
    model = backend.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps({"default_model_filename": "", **configuration}),
            "model_repository": str(root),
            "model_version": "1",
        }
    )
    return model


INDEX = entry("index", "TYPE_INT64", 1)
ROW, ECHO = entry("row", "TYPE_FP32", 3), entry("echo", "TYPE_INT64", 1, reshape={"shape": []})


@pytest.fixture
def lookup(backend: Any, tmp_path: Path) -> Any:
    save_lookup(tmp_path / "1", ["N", 1])
    return opened(backend, tmp_path, config(8, [INDEX], [ROW, ECHO]))


def request(*indices: int, wanted: Sequence[str] = ("row",)) -> Request:
    return Request({"index": np.array(indices, np.int64)[:, None]}, wanted)


def row(*indices: int) -> list[list[float]]:
    return [[3.0 * i, 3.0 * i + 1, 3.0 * i + 2] for i in indices]


def test_requests_of_several_rows_get_their_own_rows_in_one_run(lookup: Any) -> None:
    replies = lookup.execute([request(4), request(0, 9), request(2)])
    assert [reply.output_tensors[0].array.tolist() for reply in replies] == [
        row(4),
        row(0, 9),
        row(2),
    ]


def test_one_poisoned_request_fails_alone(lookup: Any) -> None:
    replies = lookup.execute([request(4), request(1, BAD), request(2)])
    assert [reply.error is None for reply in replies] == [True, False, True]
    assert replies[0].output_tensors[0].array.tolist() == row(4)
    assert replies[2].output_tensors[0].array.tolist() == row(2)
    assert replies[1].error.code == TritonError.INTERNAL
    assert "indices element out of data bounds" in str(replies[1].error)


def test_a_request_without_an_input_fails_alone(lookup: Any) -> None:
    replies = lookup.execute([request(4), Request({})])
    assert replies[0].output_tensors[0].array.tolist() == row(4)
    assert "input index is missing" in str(replies[1].error)


def test_only_what_was_asked_for_is_returned(lookup: Any) -> None:
    first, second = lookup.execute([request(4, wanted=("echo",)), request(5, wanted=("row",))])
    assert [t.name for t in first.output_tensors] == ["echo"]
    assert first.output_tensors[0].array.tolist() == [4]
    assert [t.name for t in second.output_tensors] == ["row"]


def test_a_model_without_batches_answers_requests_one_by_one(backend: Any, tmp_path: Path) -> None:
    save_lookup(tmp_path / "1", ["N", 1])
    declared = config(0, [entry("index", "TYPE_INT64", -1, 1)], [entry("row", "TYPE_FP32", -1, 3)])
    model = opened(backend, tmp_path, declared)
    replies = model.execute([request(1, 2), request(3)])
    assert [reply.output_tensors[0].array.tolist() for reply in replies] == [row(1, 2), row(3)]


def test_a_configuration_that_does_not_fit_keeps_the_model_from_loading(
    backend: Any, tmp_path: Path
) -> None:
    save_lookup(tmp_path / "1", ["N", 1])
    wrong = config(8, [entry("index", "TYPE_INT32", 1)], [entry("rows", "TYPE_FP32", 3)])
    with pytest.raises(TritonModelException, match=r"TYPE_INT32.*; output rows is not in the"):
        opened(backend, tmp_path, wrong)


def test_a_missing_configuration_is_completed_from_the_graph(backend: Any, tmp_path: Path) -> None:
    save_lookup(tmp_path / "1", ["N", 1])
    given = Completed(config(0, [], []))
    backend.TritonPythonModel.auto_complete_config(given)
    assert given.config == config(4, [INDEX], [ECHO, ROW])
    assert given.batching == ["dynamic"]
    assert opened(backend, tmp_path, given.config).execute([request(1)])[0].error is None


def test_a_complete_configuration_is_left_alone(backend: Any, tmp_path: Path) -> None:
    given = Completed(config(2, [INDEX], [ROW]))  # and no model is opened for it
    backend.TritonPythonModel.auto_complete_config(given)
    assert given.config == config(2, [INDEX], [ROW])


# --- counts for the server's metrics


@dataclass
class Family:
    """Metrics of the server, by forgotten class."""

    counts: dict[str, int] = field(default_factory=dict)

    def Metric(self, labels: dict[str, str]) -> Any:  # noqa: N802 - the server's name
        assert (labels["model"], labels["version"]) == ("m", "2")
        name = labels["forget_class"]
        assert name not in self.counts, "one metric for each class"
        self.counts[name] = 0

        def increment(count: int) -> None:
            self.counts[name] += count

        return SimpleNamespace(increment=increment)


def test_images_are_counted_by_what_was_applied(backend: Any) -> None:
    family = Family()
    tally = backend.Tally(family, {"model": "m", "version": "2"})
    tally.add(np.array([[3], [-1], [3], [10]]))
    tally._flush()
    assert family.counts == {"3": 2, "refused": 1, "10": 1}
    tally.add(np.array([[3, 3], [7, 3], [-1, -1]]))
    tally.close()
    assert family.counts == {"3": 4, "7": 1, "refused": 2, "10": 1}
    assert not tally.thread.is_alive()


def test_a_server_without_metrics_serves_all_the_same(backend: Any) -> None:
    assert backend.tally_of({"model_name": "m", "model_version": "1"}) is None
