"""What is released, and small parts of the record that tells of it."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

import onnx
import onnxruntime
import torch

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.export.parity_record import ParityRecord
from bandstop.export.record import ORDERS, ForgetRecord, PreprocessRecord
from bandstop.export.spec import ExportSpec
from bandstop.export.tolerance import two_digits


@dataclass(frozen=True, slots=True)
class Source:
    """What is released: the network before masks, its masks, and where they come from."""

    model: Classifier
    gates: GateEdit | None
    method: str | None
    classes: tuple[int, ...]
    instances: int
    artifact_sha256: str | None
    parent_sha256: str
    parent_tensors: Mapping[str, str] | None = None  # see Manifest


def default_name(model: Classifier, spec: ExportSpec) -> str:
    """Return a name made of the architecture and the mode."""
    arch = re.sub(r"[^a-z0-9_-]+", "-", model.arch.name.rpartition(":")[2].lower()).strip("-_")
    return f"{arch[:48] or 'model'}_{spec.mode}"


def preprocess_record(model: Classifier, spec: ExportSpec) -> PreprocessRecord:
    """Return how images become what the graph of `spec` takes."""
    fields = {
        k: list(v) if isinstance(v, tuple) else v for k, v in asdict(model.preprocess).items()
    }
    order = ORDERS[model.preprocess.channels]
    return PreprocessRecord.model_validate({**fields, "input": spec.input, "order": order})


def class_names_of(source: Source, spec: ExportSpec) -> list[str]:
    """Return the names by index; which class a baked release forgot is nobody's business."""
    forgotten = source.classes if spec.mode == "baked" else ()
    return ["" if c in forgotten else n for c, n in enumerate(source.model.class_names)]


def forget_record(source: Source, spec: ExportSpec) -> ForgetRecord:
    """Return what a release of `source` forgets."""
    return ForgetRecord(
        classes=sorted(source.classes),
        instances=source.instances,
        always=sorted(spec.always_forget),
        masked_logits=sorted(spec.always_forget) if spec.mask_logits else [],
        slots=spec.forget_slots if spec.mode == "gated" else 0,
        allow_none=spec.allow_none,
        sets={name: list(classes) for name, classes in sorted(spec.forget_sets.items())},
    )


def rounded(parity: ParityRecord) -> ParityRecord:
    """Return `parity` with two digits of each difference."""
    gap = None if parity.row_gap is None else two_digits(parity.row_gap)
    return parity.model_copy(update={"max_abs": two_digits(parity.max_abs), "row_gap": gap})


def library_versions() -> dict[str, str]:
    """Return the versions of what made the file and compared it."""
    return {
        "bandstop": version("bandstop"),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": version("onnxscript"),
        "onnxruntime": onnxruntime.__version__,
    }
