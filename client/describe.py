"""A server's description of a model, read and checked."""

import json
import re
from collections.abc import Mapping, Sequence

from bandstop.client.errors import ProtocolError
from bandstop.client.served import VERSION, Preprocess, ServedModel, VersionSpec
from bandstop.client.wire import Config, Metadata, TensorSpec


def read_model(name: str, metadata: Metadata, config: Config) -> ServedModel:
    """Return what the server says of model `name`.

    Raises:
        ProtocolError: it is not a model that Bandstop exported; every misfit is named.
    """
    inputs = {spec.name: spec for spec in metadata.inputs}
    outputs = {spec.name: spec for spec in metadata.outputs}
    misfits = [f"version {v!r} is no number" for v in metadata.versions if not VERSION.fullmatch(v)]
    if not metadata.versions:
        misfits.append("the server offers no version")
    if config.max_batch_size < 1:
        misfits.append(f"max_batch_size must be at least 1, got {config.max_batch_size}")
    misfits += _signature_misfits(inputs, outputs)
    versions: dict[str, VersionSpec] = {}
    for version in sorted(metadata.versions, key=lambda v: (len(v), v)):
        try:
            versions[version] = _read_version(version, config.parameters)
        except ProtocolError as error:
            misfits.append(str(error))
        else:
            misfits += _version_misfits(version, versions[version], {**outputs, **inputs})
    if misfits:
        raise ProtocolError(
            f"model {name} is not one that `bandstop export` wrote: {'; '.join(misfits)}"
        )
    return ServedModel(name, versions, _slots(inputs), config.max_batch_size)


def _slots(inputs: Mapping[str, TensorSpec]) -> int:
    forget = inputs.get("forget_class")
    return forget.shape[-1] if forget is not None and forget.shape else 0


def _signature_misfits(
    inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> list[str]:
    gated = "forget_class" in inputs
    expected_in = ["forget_class", "image"] if gated else ["image"]
    expected_out = ["applied_forget_class", "logits"] if gated else ["logits"]
    misfits = [
        f"{kind} must be {', '.join(expected)}, got {', '.join(sorted(found)) or 'none'}"
        for kind, found, expected in (
            ("inputs", inputs, expected_in),
            ("outputs", outputs, expected_out),
        )
        if sorted(found) != expected
    ]
    slots = _slots(inputs)
    for spec in (inputs.get("forget_class"), outputs.get("applied_forget_class")):
        if spec and (slots < 1 or (spec.datatype, spec.shape) != ("INT64", (-1, slots))):
            misfits.append(f"{spec.name} must be INT64 [-1, K], got {_declared(spec)}")
    return misfits


def _version_misfits(version: str, spec: VersionSpec, found: Mapping[str, TensorSpec]) -> list[str]:
    wanted = {"image": spec.preprocess.tensor, "logits": ("FP32", (-1, len(spec.labels)))}
    return [
        f"{name} must be {datatype} {list(shape)} for version {version}, "
        f"got {_declared(found[name])}"
        for name, (datatype, shape) in wanted.items()
        if name in found and (found[name].datatype, found[name].shape) != (datatype, shape)
    ]


def _declared(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _read_version(version: str, parameters: Mapping[str, str]) -> VersionSpec:
    keys = [f"{key}.{version}" for key in ("labels", "preprocess", "allow_none", "digest")]
    if missing := [key for key in keys if key not in parameters]:
        raise ProtocolError(f"config has no parameter {', '.join(missing)}")
    labels, preprocess, allow_none, digest = (parameters[key] for key in keys)
    if allow_none not in ("true", "false"):
        raise ProtocolError(f"allow_none.{version} must be true or false, got {allow_none!r}")
    if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise ProtocolError(f"digest.{version} must be 64 hex digits, got {digest[:80]!r}")
    return VersionSpec(
        _read_labels(labels, version),
        _read_preprocess(preprocess, version),
        allow_none == "true",
        digest,
        _read_sets(parameters.get(f"forget_sets.{version}", "{}"), _read_labels(labels, version)),
    )


def _read_labels(text: str, version: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ProtocolError(f"labels.{version} must be a JSON list of names, got {text[:40]!r}")
    return tuple(names)


def _read_sets(text: str, labels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the classes of each named set, by index; in JSON they are names or indices."""
    try:
        sets = json.loads(text)
    except (ValueError, RecursionError):
        sets = None
    if not isinstance(sets, dict) or not all(isinstance(group, list) for group in sets.values()):
        raise ProtocolError(f"forget_sets must be a JSON object of lists, got {text[:40]!r}")
    if shadowed := sorted(set(sets) & set(labels)):
        raise ProtocolError(f"forget_sets: {shadowed[0]!r} is also the name of a class")
    return {
        name: tuple(_member(one, name, labels) for one in group) for name, group in sets.items()
    }


def _member(one: object, name: str, labels: Sequence[str]) -> int:
    if isinstance(one, str) and labels.count(one) == 1:
        return labels.index(one)
    if isinstance(one, int) and not isinstance(one, bool) and 0 <= one < len(labels):
        return one
    raise ProtocolError(f"forget_sets: {name!r} holds {one!r}, which is no class of this version")


def _read_preprocess(text: str, version: str) -> Preprocess:
    from pydantic import TypeAdapter, ValidationError  # slow to import

    try:
        preprocess = TypeAdapter(Preprocess).validate_json(_without_order(text, version))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (f"preprocess.{version}", *first["loc"]))
        raise ProtocolError(f"{where}: {first['msg']}") from None
    if min(preprocess.size) < 1:
        raise ProtocolError(f"preprocess.{version}.size: expected above 0, got {preprocess.size}")
    # A crop larger than the picture would have to invent pixels.
    if preprocess.resize is not None and preprocess.resize < max(preprocess.size):
        raise ProtocolError(
            f"preprocess.{version}: resize {preprocess.resize} is smaller than the crop "
            f"{list(preprocess.size)}"
        )
    return preprocess


def _without_order(text: str, version: str) -> str:
    """Return `text` without the order of channels, refused unless it is the one that we send."""
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        return text  # its reader tells what is wrong
    if not isinstance(stored, dict) or "order" not in stored:
        return text  # a release from before it was told
    order, wanted = stored.pop("order"), "L" if stored.get("channels") == 1 else "RGB"
    if order != wanted:
        raise ProtocolError(f"preprocess.{version}.order: expected {wanted}, got {order!r:.40}")
    return json.dumps(stored)
