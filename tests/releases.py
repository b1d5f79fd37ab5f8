"""Small artifacts and releases for the tests of export."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bandstop.edit.arch import build
from bandstop.edit.artifact import Artifact, load_artifact, save_artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import Edit, GateEdit, WeightEdit
from bandstop.edit.gates import gateable
from bandstop.edit.images import Preprocess
from bandstop.edit.method import Method
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD
from bandstop.edit.wf_net import WFNet
from bandstop.export.config import config_text, labels_text
from bandstop.export.parity_record import ParityRecord
from bandstop.export.record import (
    CONFIG,
    LABELS,
    MODEL,
    RECORD,
    ForgetRecord,
    PreprocessRecord,
    ReleaseRecord,
    ServingRecord,
    TensorRecord,
    describe,
    record_bytes,
)

CLASSES = ("cat", "dog", 'naïve "fish"', "bird")
_ARCH = Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"})


def base(seed: int = 0) -> Classifier:
    """Return a residual network on grey 8x8 images with lively BatchNorm statistics."""
    network = build(_ARCH, len(CLASSES), 1, (8, 8), seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)  # type: ignore[arg-type]  # tracked, so a tensor
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]  # same
    return Classifier(network, _ARCH, Preprocess((8, 8), 1, (0.3,), (0.4,)), CLASSES)


def gate_edit(folded: Classifier) -> GateEdit:
    """Return masks in [0.3, 1], wide open enough for each row to show in the logits."""
    generator = torch.Generator().manual_seed(1)
    return GateEdit(
        {
            name: 0.3 + 0.7 * torch.rand(len(CLASSES), channels, generator=generator)
            for name, channels in gateable(folded.network).items()
        }
    )


def weight_edit(folded: Classifier) -> WeightEdit:
    """Return an edit of the last layer."""
    return WeightEdit({"fc.weight": folded.network.state_dict()["fc.weight"] * 0.5})


def gates_artifact(folder: Path) -> Artifact:
    """Save and load an artifact of gates for all classes."""
    request = ForgetRequest(classes=tuple(range(len(CLASSES))))
    return _artifact(folder, gate_edit, WFNet(), request)


def weights_artifact(folder: Path) -> Artifact:
    """Save and load an artifact of edited weights that forgot class 2."""
    return _artifact(folder, weight_edit, SVD(), ForgetRequest(classes=(2,)))


def _artifact(
    folder: Path, make: Callable[[Classifier], Edit], method: Method, request: ForgetRequest
) -> Artifact:
    parent = base()
    folded = fold_batchnorm(parent)
    save_artifact(folder, folded, make(folded), method=method, request=request, parent=parent)
    return load_artifact(folder)


def record(
    file: bytes = b"onnx", *, names: tuple[str, ...] = CLASSES, mode: str = "gated"
) -> ReleaseRecord:
    """Return a record as `bandstop export` writes it, for a graph that is not one."""
    gated = mode == "gated"
    image = TensorRecord(name="image", dtype="FP32", shape=[1, 8, 8])
    logits = TensorRecord(name="logits", dtype="FP32", shape=[len(names)])
    asked = TensorRecord(name="forget_class", dtype="INT64", shape=[1])
    applied = TensorRecord(name="applied_forget_class", dtype="INT64", shape=[1])
    labels = labels_text(names).encode()
    return ReleaseRecord(
        format="bandstop-release/1",
        name="digits",
        mode="gated" if gated else "baked",
        method="wf-net",
        forget=ForgetRecord(
            classes=[] if gated else [1], instances=0, always=[], slots=int(gated), allow_none=False
        ),
        inputs=[image, asked] if gated else [image],
        outputs=[logits, applied] if gated else [logits],
        max_batch_size=8,
        class_names=list(names),
        preprocess=PreprocessRecord(
            size=[8, 8],
            channels=1,
            mean=[0.3],
            std=[0.4],
            resize=None,
            interpolation="bilinear",
            input="float32",
        ),
        serving=ServingRecord(),
        artifact_sha256="a" * 64,
        parent_sha256="b" * 64,
        parity=ParityRecord(
            max_abs=1e-6,
            tolerance=1e-4,
            rows=4,
            rows_total=4,
            combinations=0,
            row_gap=0.1,
            images=8,
            compared=32,
            batches=[1, 2, 4, 7, 8],
            refused=5,
        ),
        versions={},
        files=describe({MODEL: file, LABELS: labels}),
    )


def release_folder(
    folder: Path,
    file: bytes = b"onnx",
    *,
    names: tuple[str, ...] = CLASSES,
    mode: str = "gated",
) -> Path:
    """Write a release folder around `file`, which need not be a graph."""
    facts = record(file, names=names, mode=mode)
    config = config_text(facts.name, {1: facts}).encode()
    whole = facts.model_copy(update={"files": {**facts.files, **describe({CONFIG: config})}})
    folder.mkdir()
    (folder / MODEL).write_bytes(file)
    (folder / CONFIG).write_bytes(config)
    (folder / LABELS).write_bytes(labels_text(names).encode())
    (folder / RECORD).write_bytes(record_bytes(whole))
    return folder
