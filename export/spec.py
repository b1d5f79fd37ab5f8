"""What to export, and whether an artifact can give it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bandstop.edit.artifact import Artifact
from bandstop.edit.gates import gateable
from bandstop.edit.images import Preprocess
from bandstop.export.errors import SpecError
from bandstop.export.forget_sets import set_misfits
from bandstop.export.precision_record import Precision
from bandstop.export.record import TensorRecord

MAX_SLOTS, MAX_BATCH = 16, 1024
Table = Literal["float32", "float16", "uint16"]


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """What the served graph shall be.

    Attributes:
        mode: "gated" takes the class to forget with each request; "baked" has it in its weights;
            "original" is an unedited model, for comparison.
        forget: classes whose gates are baked in, by their minimum; only to bake an artifact of
            gates.
        forget_slots: how many classes each request of a gated graph names.
        allow_none: whether a request may ask to forget nothing, by the index num_classes.
        always_forget: classes that a gated graph forgets in every request.
        mask_logits: whether the logits of these are switched off as well; that hides them, and
            forgets nothing more.
        input: float32 (n, c, h, w) in [0, 1], or uint8 (n, h, w, c).
        precision: of the numbers that the file computes with; what goes in and out stays.
        max_batch_size: the largest batch that the server makes.
        table: numbers that hold the masks of a gated graph; with 16 bits the file is smaller and
            its logits are allowed to differ more. uint16 counts steps of 1 / 65535, and is closer.
        forget_sets: names that a request to a gated graph may give for several classes together.
    """

    mode: Literal["gated", "baked", "original"]
    forget: tuple[int, ...] = ()
    forget_slots: int = 1
    allow_none: bool = False
    always_forget: tuple[int, ...] = ()
    mask_logits: bool = False
    input: Literal["float32", "uint8"] = "float32"
    precision: Precision = "float32"
    max_batch_size: int = 64
    table: Table = "float32"
    forget_sets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def check_spec(spec: ExportSpec, artifact: Artifact) -> None:
    """Refuse a spec that `artifact` cannot give.

    Raises:
        SpecError: with all misfits at once.
    """
    misfits = _wrong_kind(spec, artifact) + _out_of_range(spec, artifact.model.num_classes)
    if spec.mode == "gated":
        misfits += set_misfits(spec.forget_sets, artifact.model.class_names, spec.forget_slots)
    if misfits:
        raise SpecError(f"cannot export {spec.mode}: " + "; ".join(misfits))


def check_original(spec: ExportSpec, num_classes: int) -> None:
    """Refuse a spec that means an edit, or one out of range.

    Raises:
        SpecError: with all misfits at once.
    """
    misfits = [f"mode: expected original, got {spec.mode}"] if spec.mode != "original" else []
    if spec.forget:
        misfits.append("forget: an unedited model forgets nothing")
    misfits += _only_gated(spec) + _out_of_range(spec, num_classes)
    if misfits:
        raise SpecError("cannot export the original: " + "; ".join(misfits))


def signature(
    spec: ExportSpec, preprocess: Preprocess, num_classes: int
) -> tuple[list[TensorRecord], list[TensorRecord]]:
    """Return the inputs and the outputs of the graph that `spec` asks for."""
    height, width = preprocess.size
    if spec.input == "uint8":
        image = TensorRecord(
            name="image", dtype="UINT8", shape=[height, width, preprocess.channels]
        )
    else:
        image = TensorRecord(name="image", dtype="FP32", shape=[preprocess.channels, height, width])
    logits = TensorRecord(name="logits", dtype="FP32", shape=[num_classes])
    if spec.mode != "gated":
        return [image], [logits]
    asked, applied = (
        TensorRecord(name=name, dtype="INT64", shape=[spec.forget_slots])
        for name in ("forget_class", "applied_forget_class")
    )
    return [image, asked], [logits, applied]


def _wrong_kind(spec: ExportSpec, artifact: Artifact) -> list[str]:
    gates = artifact.gates
    if spec.mode == "original":
        return ["mode: an artifact is exported gated or baked"]
    if spec.mode == "baked":
        misfits = _only_gated(spec)
        if gates is None and spec.forget:
            misfits.append("forget: this artifact's classes are already in its weights; leave out")
        if gates is not None and not spec.forget:
            misfits.append("forget: name the classes whose gates shall be baked in")
        return misfits
    misfits = ["forget: only for baked; a gated graph is told by each request"] * bool(spec.forget)
    if gates is None:
        method = artifact.manifest.method
        return [*misfits, f"mode: {method} edits weights and has no gates; export it baked"]
    if not artifact.model.bn_folded:
        misfits.append("mode: its gates were made with BatchNorm left in; export it baked")
    if spec.allow_none and artifact.manifest.params.get("bn") == "adapt":
        misfits.append(
            "allow_none: BatchNorm adapted to the masks (bn=adapt), so that without a mask this is "
            "not the original network; leave out"
        )
    misplaced = _not_servable(gates.masks, gateable(artifact.model.network))
    if misplaced:
        misfits.append(
            f"mode: {', '.join(misplaced[:4])}: no graph has such gates; export it baked"
        )
    return misfits


def _not_servable(masked: Collection[str], known: Collection[str]) -> list[str]:
    """Return what is masked but unknown, or a bias whose weight is not masked."""
    return [
        name
        for name in masked
        if name not in known
        or (name.endswith("bias") and name.removesuffix("bias") + "weight" not in masked)
    ]


def _only_gated(spec: ExportSpec) -> list[str]:
    given = {
        "forget_slots": spec.forget_slots != 1,
        "allow_none": spec.allow_none,
        "always_forget": bool(spec.always_forget),
        "table": spec.table != "float32",
        "mask_logits": spec.mask_logits,
        "forget_sets": bool(spec.forget_sets),
    }
    return [f"{name}: only for gated" for name, is_given in given.items() if is_given]


def _out_of_range(spec: ExportSpec, num_classes: int) -> list[str]:
    misfits = [
        *_bad_classes("forget", spec.forget, num_classes),
        *_bad_classes("always_forget", spec.always_forget, num_classes),
    ]
    if spec.mask_logits and spec.mode == "gated" and not spec.always_forget:
        misfits.append("mask_logits: only of classes in always_forget; name them")
    if spec.table == "uint16" and spec.precision == "fp16":
        misfits.append("table: uint16 counts to 65535, fp16 to 65504; take float16")
    slots = min(MAX_SLOTS, num_classes)
    if not 1 <= spec.forget_slots <= slots:
        misfits.append(f"forget_slots: expected 1..{slots}, got {spec.forget_slots}")
    if not 1 <= spec.max_batch_size <= MAX_BATCH:
        misfits.append(f"max_batch_size: expected 1..{MAX_BATCH}, got {spec.max_batch_size}")
    return misfits


def _bad_classes(name: str, classes: Sequence[int], num_classes: int) -> list[str]:
    if any(not 0 <= c < num_classes for c in classes):
        return [f"{name}: expected classes 0..{num_classes - 1}, got {list(classes)}"]
    if len(set(classes)) != len(classes):
        return [f"{name}: each class once, got {list(classes)}"]
    if len(classes) == num_classes:
        return [f"{name}: all {num_classes} classes; leave at least one to recognise"]
    return []
