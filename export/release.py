"""From an artifact, or an unedited model, to a release folder that passed rules and parity."""

import re
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from bandstop.edit.artifact import Artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, edited
from bandstop.edit.origin import forgotten_by
from bandstop.edit.storage import (
    canonical_json,
    refuse_existing,
    sha256,
    state_sha256,
    write_folder,
)
from bandstop.export.config import config_text, labels_text
from bandstop.export.errors import SpecError
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.onnx_file import to_onnx, with_weights
from bandstop.export.parity import check_parity
from bandstop.export.record import (
    CONFIG,
    LABELS,
    MODEL,
    NAME_PATTERN,
    RECORD,
    ForgetRecord,
    ParityRecord,
    PreprocessRecord,
    Release,
    ReleaseRecord,
    ServingRecord,
    describe,
    record_bytes,
)
from bandstop.export.rules import check_graph
from bandstop.export.spec import ExportSpec, check_original, check_spec, signature


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen for a release beside the graph itself.

    Attributes:
        name: the model's name; None makes one of the architecture and the mode.
        serving: how the server runs it.
        images: the user's images (n, c, h, w), uint8 or float32 in [0, 1], for the parity check.
        like: an earlier release of the same architecture and spec but other weights; its graph is
            refilled instead of exported again where that fits. The result is the same.
    """

    name: str | None = None
    serving: ServingRecord = field(default_factory=ServingRecord)
    images: Tensor | None = None
    like: Release | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """What is released: the network before masks, its masks, and where they come from."""

    model: Classifier
    gates: GateEdit | None
    method: str | None
    classes: tuple[int, ...]
    instances: int
    artifact_sha256: str | None
    parent_sha256: str


def export_release(
    artifact: Artifact, spec: ExportSpec, out: Path, options: Options | None = None
) -> Release:
    """Write the release folder `out` of `artifact`; it appears complete or not at all.

    Raises:
        SpecError: the artifact cannot give what `spec` asks.
        InputError: `out` exists already, or its parent does not.
        GraphNotAllowed: the graph breaks a rule.
        ParityFailed: ONNX Runtime and PyTorch disagree.
    """
    refuse_existing(out)
    check_spec(spec, artifact)
    manifest = artifact.manifest
    source = _Source(
        model=artifact.model,
        gates=artifact.gates,
        method=manifest.method,
        classes=tuple({*forgotten_by(manifest), *spec.forget}),
        instances=len(manifest.request.instances),
        artifact_sha256=sha256(canonical_json(manifest.model_dump(mode="json"))),
        parent_sha256=manifest.parent_sha256,
    )
    return _release(source, spec, out, options or Options())


def release_classifier(
    model: Classifier, spec: ExportSpec, out: Path, options: Options | None = None
) -> Release:
    """Write the release folder `out` of an unedited `model`, to compare edited ones with.

    Raises:
        SpecError: `spec` means an edit, or does not fit the model.
        InputError, GraphNotAllowed, ParityFailed: as `export_release`.
    """
    refuse_existing(out)
    check_original(spec, model.num_classes)
    parent = state_sha256(model.network.state_dict())
    source = _Source(model, None, None, (), 0, None, parent)
    return _release(source, spec, out, options or Options())


def _release(source: _Source, spec: ExportSpec, out: Path, options: Options) -> Release:
    name = options.name or _default_name(source.model, spec)
    if not re.fullmatch(NAME_PATTERN, name):
        raise SpecError(f"name: expected {NAME_PATTERN}, got {name!r}")
    model = source.model
    inputs, outputs = signature(spec, model.preprocess, model.num_classes)
    graph = _graph(source, spec)
    file = _refilled(graph, spec, options.like, [inputs, outputs])
    file = file or to_onnx(graph, inputs, outputs)
    check_graph(file, inputs, outputs)
    parity = check_parity(file, model, source.gates, spec, options.images)
    class_names = _class_names(source, spec)
    labels = labels_text(class_names).encode()
    record = ReleaseRecord(
        format="bandstop-release/1",
        name=name,
        mode=spec.mode,
        method=source.method,
        forget=_forget_record(source, spec),
        inputs=inputs,
        outputs=outputs,
        max_batch_size=spec.max_batch_size,
        class_names=class_names,
        preprocess=_preprocess_record(model, spec),
        serving=options.serving,
        artifact_sha256=source.artifact_sha256,
        parent_sha256=source.parent_sha256,
        parity=_rounded(parity),
        versions=_library_versions(),
        files=describe({MODEL: file, LABELS: labels}),
    )
    config = config_text(name, {1: record}).encode()
    record = record.model_copy(update={"files": {**record.files, **describe({CONFIG: config})}})
    files = {MODEL: file, CONFIG: config, LABELS: labels, RECORD: record_bytes(record)}
    write_folder(out, files)
    return Release(out, record)


def _graph(source: _Source, spec: ExportSpec) -> PlainGraph | GatedGraph:
    model = source.model
    if spec.mode == "gated" and source.gates is not None:
        return GatedGraph(model, source.gates, spec)
    if source.gates is not None:
        model = edited(model, source.gates, spec.forget)
    return PlainGraph(model if model.bn_folded else fold_batchnorm(model), spec)


def _refilled(
    graph: PlainGraph | GatedGraph, spec: ExportSpec, like: Release | None, wanted: list[object]
) -> bytes | None:
    """Return the graph of `like` with the weights of `graph`, or None where it is another graph."""
    if like is None:
        return None
    record = like.record
    gated = record.mode == "gated"
    if [record.inputs, record.outputs] != wanted or gated != (spec.mode == "gated"):
        return None
    return with_weights((like.path / MODEL).read_bytes(), graph)


def _default_name(model: Classifier, spec: ExportSpec) -> str:
    arch = re.sub(r"[^a-z0-9_-]+", "-", model.arch.name.rpartition(":")[2].lower()).strip("-_")
    return f"{arch[:48] or 'model'}_{spec.mode}"


def _class_names(source: _Source, spec: ExportSpec) -> list[str]:
    """Return the names by index; which class a baked release forgot is nobody's business."""
    forgotten = source.classes if spec.mode == "baked" else ()
    return ["" if c in forgotten else n for c, n in enumerate(source.model.class_names)]


def _forget_record(source: _Source, spec: ExportSpec) -> ForgetRecord:
    return ForgetRecord(
        classes=sorted(source.classes),
        instances=source.instances,
        always=sorted(spec.always_forget),
        slots=spec.forget_slots if spec.mode == "gated" else 0,
        allow_none=spec.allow_none,
    )


def _preprocess_record(model: Classifier, spec: ExportSpec) -> PreprocessRecord:
    fields = {
        k: list(v) if isinstance(v, tuple) else v for k, v in asdict(model.preprocess).items()
    }
    return PreprocessRecord.model_validate({**fields, "input": spec.input})


def _rounded(parity: ParityRecord) -> ParityRecord:
    """Return `parity` with two digits: the rest is the noise of one processor."""
    gap = None if parity.row_gap is None else float(f"{parity.row_gap:.1e}")
    return parity.model_copy(update={"max_abs": float(f"{parity.max_abs:.1e}"), "row_gap": gap})


def _library_versions() -> dict[str, str]:
    return {
        "bandstop": version("bandstop"),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": version("onnxscript"),
        "onnxruntime": onnxruntime.__version__,
    }
