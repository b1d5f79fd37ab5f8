"""From an artifact, or an unedited model, to a release folder that passed rules and parity."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from bandstop.edit.artifact import Artifact
from bandstop.edit.classifier import Classifier
from bandstop.edit.manifest import artifact_sha256
from bandstop.edit.origin import forgotten_by
from bandstop.edit.storage import (
    refuse_existing,
    state_sha256,
    write_folder,
)
from bandstop.export.canary_make import make_canary
from bandstop.export.config import config_text, labels_text
from bandstop.export.errors import SpecError
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.measure import Measure, accuracy_on_file
from bandstop.export.onnx_file import to_onnx, with_weights
from bandstop.export.parent import refuse_parent_form
from bandstop.export.parity import check_parity
from bandstop.export.precision import check_lowering, lowered
from bandstop.export.precision_data import Lowering
from bandstop.export.record import (
    CONFIG,
    LABELS,
    MODEL,
    NAME_PATTERN,
    RECORD,
    ReleaseRecord,
    ServingRecord,
    describe,
    record_bytes,
)
from bandstop.export.record_files import Release
from bandstop.export.release_graph import graph_of, with_masked_logits
from bandstop.export.release_parts import (
    Source,
    class_names_of,
    default_name,
    forget_record,
    library_versions,
    preprocess_record,
    rounded,
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
        measure: images to measure the file's accuracies with; None measures none.
        lowering: images for a file of lower precision; None for float32.
    """

    name: str | None = None
    serving: ServingRecord = field(default_factory=ServingRecord)
    images: Tensor | None = None
    like: Release | None = None
    measure: Measure | None = None
    lowering: Lowering | None = None


def export_release(
    artifact: Artifact, spec: ExportSpec, out: Path, options: Options | None = None
) -> Release:
    """Write the release folder `out` of `artifact`; it appears complete or not at all.

    Raises:
        SpecError: the artifact cannot give what `spec` asks.
        InputError: `out` exists already, or its parent does not.
        GraphNotAllowed: the graph breaks a rule, or has a tensor as it was before the edit.
        ParityFailed: ONNX Runtime and PyTorch disagree.
    """
    refuse_existing(out)
    check_spec(spec, artifact)
    manifest = artifact.manifest
    source = Source(
        model=artifact.model,
        gates=artifact.gates,
        method=manifest.method,
        classes=tuple({*forgotten_by(manifest), *spec.forget}),
        instances=len(manifest.request.instances),
        artifact_sha256=artifact_sha256(manifest),
        parent_sha256=manifest.parent_sha256,
        parent_tensors=manifest.parent_tensors,
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
    source = Source(model, None, None, (), 0, None, parent)
    return _release(source, spec, out, options or Options())


def _release(source: Source, spec: ExportSpec, out: Path, options: Options) -> Release:
    name = options.name or default_name(source.model, spec)
    if not re.fullmatch(NAME_PATTERN, name):
        raise SpecError(f"name: expected {NAME_PATTERN}, got {name!r}")
    check_lowering(spec, options.lowering)
    model = with_masked_logits(source.model, spec)
    inputs, outputs = signature(spec, model.preprocess, model.num_classes)
    graph, baked = graph_of(model, source.gates, spec)
    parent = source.parent_tensors if source.gates is None else baked
    file = _refilled(graph, spec, options.like, [inputs, outputs])
    file = file or to_onnx(graph, inputs, outputs)
    check_graph(file, inputs, outputs)
    parity = check_parity(file, model, source.gates, spec, options.images)
    refuse_parent_form(file, parent or {})
    forget, measure = forget_record(source, spec), options.measure
    file, precision = lowered(file, spec, forget, model.num_classes, options.lowering)
    if precision is not None:
        check_graph(file, inputs, outputs, spec.precision)
    measured = None
    if measure is not None:
        measured = accuracy_on_file(file, forget, model.num_classes, measure)
    class_names = class_names_of(source, spec)
    labels = labels_text(class_names).encode()
    record = ReleaseRecord(
        format="bandstop-release/1",
        name=name,
        mode=spec.mode,
        method=source.method,
        forget=forget,
        inputs=inputs,
        outputs=outputs,
        max_batch_size=spec.max_batch_size,
        class_names=class_names,
        preprocess=preprocess_record(model, spec),
        serving=options.serving,
        artifact_sha256=source.artifact_sha256,
        parent_sha256=source.parent_sha256,
        parent_tensors=None if parent is None else dict(parent),
        parity=rounded(parity),
        measured=measured,
        precision=precision,
        canary=make_canary(file, inputs, outputs, forget, parity.tolerance, precision),
        versions=library_versions(),
        files=describe({MODEL: file, LABELS: labels}),
    )
    config = config_text(name, {1: record}).encode()
    record = record.model_copy(update={"files": {**record.files, **describe({CONFIG: config})}})
    files = {MODEL: file, CONFIG: config, LABELS: labels, RECORD: record_bytes(record)}
    write_folder(out, files)
    return Release(out, record)


def _refilled(
    graph: PlainGraph | GatedGraph, spec: ExportSpec, like: Release | None, wanted: list[object]
) -> bytes | None:
    """Return the graph of `like` with the weights of `graph`, or None where it is another graph."""
    if like is None or like.record.precision is not None:
        return None
    record = like.record
    gated = record.mode == "gated"
    if [record.inputs, record.outputs] != wanted or gated != (spec.mode == "gated"):
        return None
    return with_weights((like.path / MODEL).read_bytes(), graph)
