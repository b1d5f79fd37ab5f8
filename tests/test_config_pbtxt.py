"""config.pbtxt is complete, survives any class name, and is the same for the same facts."""

import json

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.export.config import config_text, labels_text, served_versions
from tests.releases import CLASSES, record

NASTY = ('quote " and \\', "line\nbreak\r", "brace } parameters { key:", "naïve 魚", "a, b", "\x00")


def parsed(text: str) -> triton.ModelConfig:
    return text_format.Parse(text, triton.ModelConfig())


def test_config_says_everything_a_server_would_guess() -> None:
    config = parsed(config_text("digits", {3: record()}))
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 8)
    assert config.default_model_filename == "model.onnx"
    inputs = [(i.name, i.data_type, list(i.dims)) for i in config.input]
    assert inputs == [
        ("image", triton.TYPE_FP32, [1, 8, 8]),
        ("forget_class", triton.TYPE_INT64, [1]),
    ]
    outputs = [(o.name, o.data_type, list(o.dims), o.label_filename) for o in config.output]
    assert outputs == [
        ("logits", triton.TYPE_FP32, [4], "labels.txt"),
        ("applied_forget_class", triton.TYPE_INT64, [1], ""),
    ]
    assert list(config.version_policy.specific.versions) == [3]
    (group,) = config.instance_group
    assert (group.kind, group.count) == (triton.ModelInstanceGroup.KIND_CPU, 2)
    assert config.HasField("dynamic_batching")
    queue = config.dynamic_batching.default_queue_policy
    assert (queue.timeout_action, queue.max_queue_size) == (triton.ModelQueuePolicy.REJECT, 256)
    assert queue.allow_timeout_override
    (warmup,) = config.model_warmup
    assert {name: list(i.dims) for name, i in warmup.inputs.items()} == {
        "image": [1, 8, 8],
        "forget_class": [1],
    }


def test_a_gated_model_is_never_cached() -> None:
    assert not parsed(config_text("digits", {1: record()})).HasField("response_cache")


def test_clients_find_the_facts_of_each_served_version() -> None:
    first, second = record(b"one"), record(b"two", names=("a", "b", "c", "d"))
    config = parsed(config_text("digits", {2: first, 10: second}))
    values = {name: value.string_value for name, value in config.parameters.items()}
    assert list(config.version_policy.specific.versions) == [2, 10]
    assert json.loads(values["labels.2"]) == list(CLASSES)
    assert json.loads(values["labels.10"]) == ["a", "b", "c", "d"]
    assert values["digest.10"] == second.files["model.onnx"].sha256 != values["digest.2"]
    assert values["allow_none.2"] == "false"
    assert values["intra_op_thread_count"] == "1"
    assert json.loads(values["preprocess.2"]) == {
        "size": [8, 8],
        "channels": 1,
        "mean": [0.3],
        "std": [0.4],
        "resize": None,
        "interpolation": "bilinear",
        "input": "float32",
    }


@pytest.mark.parametrize("name", NASTY)
def test_any_class_name_comes_back_exactly(name: str) -> None:
    config = parsed(config_text("digits", {1: record(names=(name, "other"))}))
    assert json.loads(config.parameters["labels.1"].string_value) == [name, "other"]
    assert len(config.input) == 2


def test_the_same_facts_give_the_same_bytes() -> None:
    assert config_text("digits", {1: record()}) == config_text("digits", {1: record()})


@pytest.mark.parametrize("names", [CLASSES, NASTY])
def test_labels_have_a_line_for_each_class(names: tuple[str, ...]) -> None:
    text = labels_text(names)
    assert text.endswith("\n")
    assert text.count("\n") == len(names)
    assert "\r" not in text


def test_served_versions_are_read_back() -> None:
    assert served_versions(config_text("digits", {7: record(), 3: record()})) == (3, 7)
    assert served_versions('name: "foreign"') == ()
    with pytest.raises(ValueError, match="not a model configuration"):
        served_versions("name: {")
