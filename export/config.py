"""The complete config.pbtxt of a model: a function of what its served releases say."""

import json
from collections.abc import Mapping, Sequence

from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.export.forget_sets import sets_text
from bandstop.export.record import LABELS, MODEL, ReleaseRecord, ServingRecord, TensorRecord

TYPES = {"FP32": triton.TYPE_FP32, "UINT8": triton.TYPE_UINT8, "INT64": triton.TYPE_INT64}


def config_text(model: str, served: Mapping[int, ReleaseRecord]) -> str:
    """Return config.pbtxt for `model`, the same text for the same facts.

    It is complete, so that servers need not guess (`--disable-auto-complete-config`), and the same
    for every server. There is no response cache in it: its key ignores request parameters.

    Args:
        model: the model's name, which is also its folder's.
        served: version -> what was released; all have the same inputs and outputs. The newest
            decides how the server runs them.
    """
    newest = served[max(served)]
    config = triton.ModelConfig(
        name=model,
        backend="onnxruntime",
        default_model_filename=MODEL,
        max_batch_size=newest.max_batch_size,
    )
    for tensor in newest.inputs:
        config.input.add(name=tensor.name, data_type=TYPES[tensor.dtype], dims=tensor.shape)
    for tensor in newest.outputs:
        labels = LABELS if tensor.name == "logits" else ""
        config.output.add(
            name=tensor.name,
            data_type=TYPES[tensor.dtype],
            dims=tensor.shape,
            label_filename=labels,
        )
    config.version_policy.specific.versions.extend(sorted(served))
    _run_as_(config, newest.serving)
    _warm_up_(config, newest.inputs)
    for name, value in _parameters(served).items():
        config.parameters[name].string_value = value
    return str(text_format.MessageToString(config))


def served_versions(config: str) -> tuple[int, ...]:
    """Return the versions that the text of a config.pbtxt serves; none where it names none.

    Raises:
        ValueError: not the text of a model configuration.
    """
    try:
        parsed = text_format.Parse(config, triton.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"not a model configuration: {error}") from error
    return tuple(sorted(parsed.version_policy.specific.versions))


def labels_text(class_names: Sequence[str]) -> str:
    r"""Return labels.txt: a line a class; a line break inside a name is written as \n.

    A class without a name keeps its line, so that all others keep their number.
    """
    lines = [name.replace("\r", "\\r").replace("\n", "\\n") for name in class_names]
    return "\n".join(lines) + "\n"


def _run_as_(config: triton.ModelConfig, serving: ServingRecord) -> None:
    config.instance_group.add(kind=triton.ModelInstanceGroup.KIND_CPU, count=serving.instances)
    # without preferred sizes a batch is whatever waits, which Triton's own guide recommends
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = serving.queue_delay_us
    queue = batching.default_queue_policy
    queue.timeout_action = triton.ModelQueuePolicy.REJECT
    queue.default_timeout_microseconds = serving.queue_timeout_us
    queue.allow_timeout_override = True
    queue.max_queue_size = serving.max_queue_size
    config.parameters["intra_op_thread_count"].string_value = str(serving.intra_op_threads)


def _warm_up_(config: triton.ModelConfig, inputs: Sequence[TensorRecord]) -> None:
    sample = config.model_warmup.add(name="warmup", batch_size=1)
    for tensor in inputs:
        given = sample.inputs[tensor.name]
        given.data_type = TYPES[tensor.dtype]
        given.dims.extend(tensor.shape)
        given.zero_data = True


def _parameters(served: Mapping[int, ReleaseRecord]) -> dict[str, str]:
    """Return what clients read: config.pbtxt is the model's, so each key carries its version."""
    parameters = {}
    for version, record in served.items():
        parameters[f"labels.{version}"] = json.dumps(record.class_names)
        parameters[f"digest.{version}"] = record.files[MODEL].sha256
        parameters[f"preprocess.{version}"] = record.preprocess.text
        parameters[f"allow_none.{version}"] = json.dumps(record.forget.allow_none)
        if record.forget.sets:
            parameters[f"forget_sets.{version}"] = sets_text(record.forget.sets)
    return parameters
