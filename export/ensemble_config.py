"""The three models beside a model that let it take encoded pictures and answer in names.

    MODEL_decode   encoded -> image                           backend bandstop_images
    MODEL_names    logits [, applied_forget_class] -> names   backend bandstop_names
    MODEL_images   the ensemble: MODEL_decode, MODEL, MODEL_names

A version of theirs belongs to the version of MODEL with the same number, and the ensemble names
the version of each step: whatever happens to MODEL, names and pixels are those of the version that
answered, and an ensemble whose version was withdrawn does not answer at all.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.export.config import TYPES
from bandstop.export.errors import SpecError
from bandstop.export.record import MODEL, ReleaseRecord, TensorRecord

DECODE: Final = "_decode"
NAMES: Final = "_names"
IMAGES: Final = "_images"
PARTS: Final = (IMAGES, DECODE, NAMES)  # in the order in which they can be taken away
LONGEST = 64 - len(DECODE)  # characters of a model's name that has an ensemble
_NAMED: Final = {
    "names": triton.TYPE_STRING,
    "probabilities": triton.TYPE_FP32,
    "indices": triton.TYPE_INT64,
}
Records = Mapping[int, ReleaseRecord]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The ensemble of a model, as its configuration says.

    Attributes:
        model: the name of the model itself.
        version: with which it answers.
        most: rows in one request; stays for ever.
        top_k: how many classes are named; stays for ever.
    """

    model: str
    version: int
    most: int
    top_k: int


def check_ensemble(model: str, record: ReleaseRecord, top_k: int) -> None:
    """Refuse what cannot have an ensemble.

    Raises:
        SpecError: a name that is too long, or a `top_k` that is not 1 to the number of classes.
    """
    if len(model) > LONGEST:
        raise SpecError(
            f"model name {model}: expected at most {LONGEST} characters for an ensemble, got "
            f"{len(model)}; publish it under another name"
        )
    if not 1 <= top_k <= len(record.class_names):
        raise SpecError(f"top-k: expected 1 to {len(record.class_names)}, got {top_k}")


def configs(ensemble: Ensemble, served: Records) -> dict[str, str]:
    """Return the text of config.pbtxt of each part, whose steps serve the versions `served`."""
    model, version, most = ensemble.model, ensemble.version, ensemble.most
    top_k = ensemble.top_k
    return {
        DECODE: decode_text(model, served, most),
        NAMES: names_text(model, served, most, top_k),
        IMAGES: images_text(model, version, served[version], most, top_k),
    }


def decode_text(model: str, served: Records, most: int) -> str:
    """Return config.pbtxt of MODEL_decode.

    Args:
        model: the name of the model itself.
        served: version -> record of those that are served.
        most: rows in one request.
    """
    newest = served[max(served)]
    config = _step(model + DECODE, "bandstop_images", served, most)
    config.input.add(name="encoded", data_type=triton.TYPE_STRING, dims=[1])
    _gives(config, newest.inputs[:1])
    for version, record in served.items():
        config.parameters[f"preprocess.{version}"].string_value = record.preprocess.text
    return _text(config)


def names_text(model: str, served: Records, most: int, top_k: int) -> str:
    """Return config.pbtxt of MODEL_names; the arguments are those of `images_text`."""
    config = _step(model + NAMES, "bandstop_names", served, most)
    _takes(config, served[max(served)].outputs)
    _add_named(config, top_k)
    for version, record in served.items():
        config.parameters[f"labels.{version}"].string_value = json.dumps(record.class_names)
    return _text(config)


def images_text(model: str, version: int, record: ReleaseRecord, most: int, top_k: int) -> str:
    """Return config.pbtxt of the ensemble, which takes each step in version `version`.

    Args:
        model: the name of the model itself.
        version: of it, and of the ensemble.
        record: of that version.
        most: rows in one request.
        top_k: how many classes are named.
    """
    config = triton.ModelConfig(name=model + IMAGES, platform="ensemble", max_batch_size=most)
    config.version_policy.specific.versions.append(version)
    config.input.add(name="encoded", data_type=triton.TYPE_STRING, dims=[1])
    _takes(config, record.inputs[1:])
    _add_named(config, top_k)
    _gives(config, record.outputs)
    image, *asked = (tensor.name for tensor in record.inputs)
    given = [tensor.name for tensor in record.outputs]
    steps = (
        (model + DECODE, ["encoded"], [image]),
        (model, [image, *asked], given),
        (model + NAMES, given, list(_NAMED)),
    )
    for name, taken, made in steps:
        step = config.ensemble_scheduling.step.add(model_name=name, model_version=version)
        step.input_map.update({tensor: tensor for tensor in taken})
        step.output_map.update({tensor: tensor for tensor in made})
    config.parameters[f"digest.{version}"].string_value = record.files[MODEL].sha256
    config.parameters[f"labels.{version}"].string_value = json.dumps(record.class_names)
    return _text(config)


def _step(name: str, backend: str, served: Records, most: int) -> triton.ModelConfig:
    """Return what the configurations of both steps have in common.

    They do not batch: each picture is decoded by itself anyhow, and Triton's batcher sometimes lets
    a single request wait for half a second.
    """
    config = triton.ModelConfig(name=name, backend=backend, max_batch_size=most)
    config.version_policy.specific.versions.extend(sorted(served))
    count = served[max(served)].serving.instances
    config.instance_group.add(kind=triton.ModelInstanceGroup.KIND_CPU, count=count)
    return config


def _add_named(config: triton.ModelConfig, top_k: int) -> None:
    for name, kind in _NAMED.items():
        config.output.add(name=name, data_type=kind, dims=[top_k])


def _takes(config: triton.ModelConfig, tensors: Iterable[TensorRecord]) -> None:
    for tensor in tensors:
        config.input.add(name=tensor.name, data_type=TYPES[tensor.dtype], dims=tensor.shape)


def _gives(config: triton.ModelConfig, tensors: Iterable[TensorRecord]) -> None:
    for tensor in tensors:
        config.output.add(name=tensor.name, data_type=TYPES[tensor.dtype], dims=tensor.shape)


def _text(config: triton.ModelConfig) -> str:
    return str(text_format.MessageToString(config))
