"""What in a model's configuration makes Triton run code, or serve other than it seems to."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from re import compile as pattern

from google.protobuf import text_format  # type: ignore[import-untyped]  # it ships no hints
from tritonclient.grpc import model_config_pb2

from bandstop.serve.hazard import CONFIG, Hazard

_BACKEND = pattern(r"[A-Za-z0-9_-]*")
_ONNX = ("onnxruntime", "onnxruntime_onnx")
_POLICY_INPUT = "forget_class"


def configured(folder: Path, versions: list[int]) -> list[Hazard]:
    """Return the hazards of one model's configuration.

    Args:
        folder: the model's.
        versions: whose folders are there, ascending.
    """
    file = folder / CONFIG
    where = f"{folder.name}/{CONFIG}"
    if not file.is_file():
        return []
    config = model_config_pb2.ModelConfig()
    try:
        # a server newer than our description of its format may know more
        text_format.Parse(file.read_text(encoding="utf-8"), config, allow_unknown_field=True)
    except (OSError, ValueError, text_format.ParseError) as error:
        return [Hazard(where, f"cannot be read: {' '.join(str(error).split())}", "mend it")]
    found = [*_executing(config), *_misleading(config, folder.name)]
    found += [*_unserved(config, folder, versions), *_steps(config, folder.parent)]
    return [Hazard(where, what, mend, stops) for what, mend, stops in found]


Found = Iterator[tuple[str, str, bool]]


def _executing(config: model_config_pb2.ModelConfig) -> Found:
    mend = "serve what was exported and nothing else"
    if config.backend == "python":
        yield "backend python would execute a file of the model", mend, True
    if not _BACKEND.fullmatch(config.backend):  # "../x" runs a model.py from anywhere
        yield f"backend {config.backend!r} would execute what lies elsewhere", mend, True
    if config.model_operations.op_library_filename:
        yield "model_operations would execute a library", mend, True
    if "EXECUTION_ENV_PATH" in config.parameters:
        yield "EXECUTION_ENV_PATH would execute an environment", mend, True
    for warmup in config.model_warmup:
        for tensor in warmup.inputs.values():
            path = PurePosixPath(tensor.input_data_file)
            if path.is_absolute() or ".." in path.parts:
                yield f"model_warmup reads {path}, which leaves the model's folder", mend, True


def _misleading(config: model_config_pb2.ModelConfig, name: str) -> Found:
    """Yield what makes a server answer by another policy than was asked for."""
    if config.name and config.name != name:
        yield f"names the model {config.name!r}, its folder {name!r}", "make them one", True
    gated = any(tensor.name == _POLICY_INPUT for tensor in config.input)
    if gated and config.response_cache.enable:
        yield "response_cache keeps answers of a gated model", "remove it", False
    if gated and not config.max_batch_size:
        what = f"max_batch_size 0 with {_POLICY_INPUT} lets one bad row fail a whole request"
        yield what, "export the model again", False
    if config.version_policy.HasField("all"):
        what = "version_policy all serves superseded versions too"
        yield what, "name the versions: version_policy { specific { versions: [N] } }", False


def _unserved(config: model_config_pb2.ModelConfig, folder: Path, versions: list[int]) -> Found:
    """Yield versions that are to be served and cannot be."""
    wanted = list(config.version_policy.specific.versions)
    missing = [str(n) for n in wanted if n not in versions]
    if missing:
        none = len(missing) == len(wanted)
        what = f"serves version {', '.join(missing)}, which is not there"
        yield what, "publish it, or promote another version", none
    if not versions or not {config.backend, config.platform} & set(_ONNX):
        return
    if not wanted:
        latest = max(1, config.version_policy.latest.num_versions)
        wanted = versions if config.version_policy.HasField("all") else versions[-latest:]
    file = config.default_model_filename or "model.onnx"
    for number in versions:
        version = folder / str(number)
        if number not in wanted and (version / "release.json").is_file():
            continue  # of a version that is not served `repo gc` leaves only what it was
        if not (version / file).exists():
            what = f"version {number} holds no {file}"
            yield what, f"remove {folder.name}/{number}", number in wanted


def _steps(config: model_config_pb2.ModelConfig, root: Path) -> Found:
    """Yield steps of an ensemble that are not served; the server would not start."""
    for step in config.ensemble_scheduling.step:
        file, other = root / step.model_name / CONFIG, model_config_pb2.ModelConfig()
        try:
            text_format.Parse(file.read_text(encoding="utf-8"), other, allow_unknown_field=True)
        except (OSError, ValueError, text_format.ParseError):
            yield f"takes a step of {step.model_name}, which is not there", "publish it", True
            continue
        served = list(other.version_policy.specific.versions)
        if served and step.model_version > 0 and step.model_version not in served:
            what = f"takes version {step.model_version} of {step.model_name}, which serves {served}"
            yield what, f"promote that version of {step.model_name}", True
