"""Look one model of a repository over."""

import os
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.export.errors import ExportError
from bandstop.export.finding import Finding
from bandstop.export.history import HISTORY, forgets_of, read_history
from bandstop.export.layout import is_stage, version_numbers
from bandstop.export.model_folder import ModelFolder, has_weights, read_model
from bandstop.export.policy import last_override, neglected, told_duty
from bandstop.export.record import CONFIG, LABELS, RECORD
from bandstop.export.verify_release import verify_release
from bandstop.export.verify_signature import Trust

_AGAIN = "publish its release anew, or roll back to a version that is whole"
_MENDS = {
    "files": _AGAIN,
    "graph": _AGAIN,
    "classes": "export and publish it again",
    "config": "promote the version again, which writes the config anew",
    "signature": "sign the release and publish it again",
}


def about_model(folder: Path) -> Iterator[Finding]:
    """Tell what is wrong with the model `folder`."""
    if not (folder / CONFIG).is_file():
        yield Finding(folder.name, f"no {CONFIG}", "remove the folder, or publish into it anew")
        return
    yield from _foreign(folder)
    yield from _config(folder)
    try:
        model = read_model(folder)
    except ExportError as error:
        yield Finding(folder.name, str(error), "bring it back from a copy, or remove the folder")
        return
    yield from _served(model)
    yield from _history(model)
    for version in sorted(model.records):
        yield from _version(model, version)


def _foreign(folder: Path) -> Iterator[Finding]:
    numbers = {str(n) for n in version_numbers(folder)}
    for entry in sorted(folder.iterdir()):
        where = f"{folder.name}/{entry.name}"
        if entry.name in numbers and not os.path.lexists(entry / RECORD):
            yield Finding(where, "a version that nobody published", "remove it")
        elif entry.name not in {CONFIG, LABELS, HISTORY, *numbers} and not is_stage(entry.name):
            yield Finding(where, "a foreign file or folder", "remove it")


def _config(folder: Path) -> Iterator[Finding]:
    """Tell of settings by which a server may serve something else than was published."""
    where, config = f"{folder.name}/{CONFIG}", triton.ModelConfig()
    try:
        text_format.Parse((folder / CONFIG).read_text(encoding="utf-8"), config)
    except (ValueError, text_format.ParseError) as error:
        yield Finding(where, f"unreadable: {' '.join(str(error).split())}", "bring it back")
        return
    mend = _MENDS["config"]
    gated = any(tensor.name == "forget_class" for tensor in config.input)
    if gated and config.response_cache.enable:
        yield Finding(where, "response_cache on a model that takes requests to forget", mend)
    if config.version_policy.WhichOneof("policy_choice") != "specific":
        yield Finding(where, "version_policy: serves versions that nobody promoted", mend)
    if config.max_batch_size < 1:
        yield Finding(where, f"max_batch_size {config.max_batch_size}, expected 1 or more", mend)
    for sample in config.model_warmup:
        for tensor in sample.inputs.values():
            if tensor.input_data_file:
                yield Finding(where, f"model_warmup reads {tensor.input_data_file!r}", mend)


def _served(model: ModelFolder) -> Iterator[Finding]:
    name = model.path.name
    for version in model.served:
        where = f"{name}/{version}"
        if not (model.path / str(version)).is_dir():
            mend = "roll back to a version that is there, or promote one"
            yield Finding(where, "served, but not there", mend)
        elif version not in model.records:
            yield Finding(where, "served, but nobody published it", "promote one that is ours")
        elif not has_weights(model.path, version):
            yield Finding(where, "served, but its weights are not there", _AGAIN)
        elif last_override(model.history, version) is None:
            record = model.records[version]
            for duty in neglected(forgets_of(record), model.history):
                yield Finding(
                    where,
                    f"recognises again what the model forgets: {told_duty(duty, record)}",
                    "promote a version that forgets it, or promote this one with --override REASON",
                )


def _history(model: ModelFolder) -> Iterator[Finding]:
    """Tell of versions that were served once and that somebody took away."""
    if read_history(model.path) is None:
        return
    past = model.history.events
    gone = {e.version for e in past if e.action != "restore"} - {*version_numbers(model.path)}
    back = {e.version for e in past if e.action == "restore"}
    for version in sorted(gone - back - {*model.served}):
        where = f"{model.path.name}/{version}"
        mend = "bring it back from a copy; to save space use bandstop repo gc"
        yield Finding(where, "published once, but not there any more", mend)


def _version(model: ModelFolder, version: int) -> Iterator[Finding]:
    """Hold a version against its record; one whose weights were removed has nothing to hold."""
    if not has_weights(model.path, version):
        return
    where = f"{model.path.name}/{version}"
    report = verify_release(model.path / str(version), version, Trust())
    for check, misfit in report.misfits:
        # what is served wrongly is told once, of the model
        yield Finding(where, misfit, _MENDS.get(check, _AGAIN))
