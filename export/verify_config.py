"""Whether config.pbtxt says of a release what `config_text` would say."""

import json
import re
from collections.abc import Iterator, Mapping

from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.export.config import config_text
from bandstop.export.record import CONFIG, ReleaseRecord

# the rest of what is written is how the server runs the model, which its operator may change
_FIXED = (
    *("name", "backend", "default_model_filename", "max_batch_size", "input", "output"),
    "platform",
)
_OPTIONAL = {"forget_sets"}  # parameters that only some versions of a model have


def config_misfits(
    config: bytes, model: str, version: int, record: ReleaseRecord
) -> tuple[list[str], bool]:
    """Return where a config.pbtxt disagrees with a release, a line each, and whether it serves it.

    A version that is not served need not be spoken of; what is said of it must be true anyhow.

    Args:
        config: the content of the file.
        model: the model's name.
        version: the release's number in the repository; 1 in a release folder.
        record: of the release.
    """
    try:
        parsed = text_format.Parse(config.decode(), triton.ModelConfig())
    except (UnicodeDecodeError, text_format.ParseError) as error:
        return [f"{CONFIG!r}: not a model configuration: {' '.join(str(error).split())}"], False
    wanted = text_format.Parse(config_text(model, {version: record}), triton.ModelConfig())
    served = version in parsed.version_policy.specific.versions
    misfits = [
        *_fields(parsed, wanted, may_cache=record.mode != "gated"),
        *_parameters(_values(parsed), _values(wanted), version, served=served),
    ]
    if not parsed.version_policy.specific.versions:
        misfits.append("version_policy: expected the served versions by number, got none")
    return [f"{CONFIG!r}: {misfit}" for misfit in misfits], served


def _fields(
    there: triton.ModelConfig, wanted: triton.ModelConfig, *, may_cache: bool
) -> Iterator[str]:
    written = {field.name for field, _ in wanted.ListFields()}
    for field, _ in there.ListFields():
        if field.name == "response_cache" and may_cache:
            continue
        if field.name not in written:
            yield f"{field.name}: not a field that export writes"
    for name in _FIXED:
        if _plain(there, name) != _plain(wanted, name):
            yield f"{name}: {_plain(there, name)!s:.200}, expected {_plain(wanted, name)!s:.200}"


def _plain(config: triton.ModelConfig, name: str) -> object:
    """Return a field in a form that can be compared and shown."""
    value = getattr(config, name)
    if isinstance(value, str | int):
        return value
    return [text_format.MessageToString(item, as_one_line=True) for item in value]


def _values(config: triton.ModelConfig) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def _parameters(
    there: Mapping[str, str], wanted: Mapping[str, str], version: int, *, served: bool
) -> Iterator[str]:
    """Tell what clients would read wrong, and keys that could mean anything to a backend."""
    kinds = {name.removesuffix(f".{version}") for name in wanted} | _OPTIONAL
    for name in sorted(there):
        if re.sub(r"\.[0-9]+$", "", name) not in kinds:
            yield f"parameter {name}: not one that export writes"
        elif name.endswith(f".{version}") and name not in wanted:
            yield f"parameter {name}: {there[name]:.80}, but version {version} has none"
    for name, value in sorted(wanted.items()):
        if not name.endswith(f".{version}"):
            continue
        if name not in there:
            if served:
                yield f"parameter {name}: missing"
        elif _read(there[name]) != _read(value):
            yield f"parameter {name}: {there[name]:.80}, expected {value:.80}"


def _read(text: str) -> object:
    """Return the JSON that a parameter holds; a digest is no JSON and stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
