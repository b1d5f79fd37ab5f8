"""What an evaluation found, as it stands in metrics.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.evaluation.record_parts import (
    ArtifactRecord,
    CurvesRecord,
    DataRecord,
    FilterRecord,
    Key,
    MeasureRecord,
    MetricRecord,
    RuntimeRecord,
    Share,
    SubjectName,
    Text,
)
from bandstop.edit.records import ClassNames, Strict, misfits
from bandstop.edit.storage import replace_file
from bandstop.edit.tensors import named_twice

FORMAT = "bandstop-metrics/1"
METRICS = "metrics.json"
_LIMIT = 64 << 20  # bytes; a thousand classes take some hundred kB


class Evaluation(Strict):
    """What metrics.json holds; mappings keep their order, which is the order of the report.

    Attributes:
        seed: of what the evaluation drew.
        command: repeats the evaluation.
        subjects: network -> metric -> what was measured.
        metrics: how each metric is read.
        per_class: network -> test accuracy a class; None where a class has no image.
        destinations: network -> share of the forgotten test images by predicted class; of
            forgotten instances, of these.
        filters: layer -> class -> the channels that its mask closes most, of WF-Net.
        warnings: what a reader must not miss, such as over-forgetting.
    """

    format: Literal["bandstop-metrics/1"] = "bandstop-metrics/1"
    artifact: ArtifactRecord
    data: DataRecord
    seed: int = 0
    versions: dict[str, str]
    command: str
    class_names: ClassNames
    subjects: dict[SubjectName, dict[Key, MeasureRecord]]
    metrics: dict[Key, MetricRecord]
    per_class: dict[SubjectName, list[Share | None]] = Field(default_factory=dict)
    destinations: dict[SubjectName, list[Share]] = Field(default_factory=dict)
    curves: CurvesRecord = Field(default_factory=CurvesRecord)
    filters: dict[str, dict[str, list[FilterRecord]]] = Field(default_factory=dict)
    runtime: RuntimeRecord = Field(default_factory=RuntimeRecord)
    warnings: list[Text] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_together(self) -> "Evaluation":
        wrong = [*_unknown_names(self), *_wrong_lengths(self)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def metrics_json(evaluation: Evaluation) -> bytes:
    """Return the content of metrics.json; `dvc metrics show` reads its numbers."""
    plain = evaluation.model_dump(mode="json")
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_metrics(file: Path, evaluation: Evaluation) -> None:
    """Write `evaluation` to `file`, which is the old one or the new one at any moment."""
    replace_file(file, metrics_json(evaluation))


def read_metrics(path: Path) -> Evaluation:
    """Return the evaluation in the file `path`, or in the metrics.json of the folder `path`.

    Raises:
        InputError: there is no such file, or it is of something else.
        ArtifactError: it is corrupt.
    """
    file = path / METRICS if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such file; give what `bandstop evaluate` wrote")
    if file.stat().st_size > _LIMIT:
        raise ArtifactError(f"{file}: larger than {_LIMIT} bytes, so no metrics; evaluate again")
    data = file.read_bytes()
    _check_format(file, data)
    try:
        return Evaluation.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactError(
            f"{file}: not valid {FORMAT}: {misfits(error)}; evaluate again"
        ) from error


def _check_format(file: Path, data: bytes) -> None:
    try:
        content, twice = json.loads(data), named_twice(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: not JSON ({error}); evaluate again") from error
    if twice:
        raise ArtifactError(f"{file}: names {', '.join(twice[:5])} twice; evaluate again")
    found = content.get("format") if isinstance(content, Mapping) else None
    if found != FORMAT:
        raise InputError(
            f"{file}: expected format {FORMAT!r}, got {found!r}; "
            "give the metrics.json that `bandstop evaluate` wrote"
        )


def _unknown_names(e: Evaluation) -> list[str]:
    wrong = [] if "edited" in e.subjects else ["subjects: edited is missing"]
    for where, names in (
        ("per_class", e.per_class),
        ("destinations", e.destinations),
        ("curves.relearn", e.curves.relearn),
    ):
        wrong += [f"{where}: {name} is no subject" for name in names if name not in e.subjects]
    measured = {key: None for measures in e.subjects.values() for key in measures}
    wrong += [f"metrics: nothing about {key}" for key in measured if key not in e.metrics]
    classes = [*e.artifact.request.classes, *(c for layer in e.filters.values() for c in layer)]
    unknown = sorted({c for c in classes if c not in e.class_names})
    return wrong + [f"class_names: no {name!r}" for name in unknown[:5]]


def _wrong_lengths(e: Evaluation) -> list[str]:
    count = len(e.class_names)
    return [
        f"{where}.{subject}: expected {count} values, got {len(values)}"
        for where, lists in (("per_class", e.per_class), ("destinations", e.destinations))
        for subject, values in lists.items()
        if len(values) != count
    ]
