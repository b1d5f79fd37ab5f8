"""The parts of metrics.json: the artifact, the data, the metrics, measures, curves and costs."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.records import Sha256, Strict

SubjectName = Annotated[str, Field(pattern=r"^(original|edited|retrained|logit-mask)$")]
Reference = Annotated[str, Field(pattern=r"^(original|retrained)$")]
Key = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


class MeasureRecord(Strict):
    """See `Measure`."""

    value: float
    ci95: tuple[float, float] | None = None
    n: Annotated[int, Field(ge=1)]
    note: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> "MeasureRecord":
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise ValueError(f"ci95 must be (low, high), got {self.ci95}")
        return self


class MetricRecord(Strict):
    """How a metric is read.

    Attributes:
        title: its name in words.
        direction: lower or higher is better, or closest to the target.
        target: the value to come near; `retrained` and `original` mean that network's value.
        chance: what guessing would give.
        weak: whether an attack that found nothing says little.
        about: one sentence for somebody who does not know the metric.
        unit: a `share` is shown in percent, a `score` as a plain number.
        scale: a difference that counts as 1 in the distance to the retrained network.
    """

    title: Text
    direction: Literal["lower", "higher", "closest"]
    target: float | Literal["retrained", "original"] | None = None
    chance: float | None = None
    weak: bool = False
    about: str = ""
    unit: Literal["share", "score", "epochs", "s", "MB"] = "share"
    scale: Annotated[float, Field(gt=0)] = 1.0


class AskedRecord(Strict):
    """What was to be forgotten: the names of classes, or so many training images."""

    classes: list[str] = Field(default_factory=list)
    instances: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_kind(self) -> "AskedRecord":
        if bool(self.classes) == bool(self.instances):
            raise ValueError("expected either classes or a number of instances")
        return self


class ArtifactRecord(Strict):
    """What was evaluated: the parts of the artifact's manifest that tell it from others.

    Attributes:
        parent_sha256: digest of the original's weights.
        files: name -> digest.
    """

    method: Text
    params: dict[str, JsonValue] = Field(default_factory=dict)
    seed: int
    kind: Literal["weights", "gates"]
    request: AskedRecord
    parent_sha256: Sha256
    files: dict[str, Sha256]


class DataRecord(Strict):
    """Where the images came from, and how many were looked at."""

    spec: Text
    test: Annotated[int, Field(ge=1)]
    forget: Annotated[int, Field(ge=1)]
    retain: Annotated[int, Field(ge=1)]


class InsertionRecord(Strict):
    """Confidence of the true class, over the original's, while masks are opened or closed.

    Attributes:
        fractions: share of the masks that was changed, from 0 to 1.
        insertion: from the forgetting masks, the most closed ones opened first.
        deletion: from open masks, the most closed ones closed first.
        insertion_random: as `insertion`, in a random order.
        deletion_random: as `deletion`, in a random order.
    """

    fractions: Annotated[list[Share], Field(min_length=2)]
    insertion: list[float]
    deletion: list[float]
    insertion_random: list[float]
    deletion_random: list[float]

    @model_validator(mode="after")
    def _same_length(self) -> "InsertionRecord":
        wrong = [
            f"{name} has {len(getattr(self, name))}"
            for name in ("insertion", "deletion", "insertion_random", "deletion_random")
            if len(getattr(self, name)) != len(self.fractions)
        ]
        if wrong:
            raise ValueError(f"expected {len(self.fractions)} values a curve: {', '.join(wrong)}")
        return self


class CurvesRecord(Strict):
    """What is a line and no single number.

    Attributes:
        relearn: accuracy on what was forgotten, before relearning and after each of its epochs.
        insertion: of WF-Net's masks.
        cka: reference -> subject -> layer -> similarity of both networks' answers to the
            forgotten images, layers in order of the network.
    """

    relearn: dict[SubjectName, Annotated[list[Share], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    insertion: InsertionRecord | None = None
    cka: dict[Reference, dict[SubjectName, dict[str, float]]] = Field(default_factory=dict)


class FilterRecord(Strict):
    """An output channel of a layer and how far a class's mask closes it (1 - mask)."""

    channel: Annotated[int, Field(ge=0)]
    closed: Share


class RuntimeRecord(Strict):
    """What it cost; None where it was not measured."""

    unlearn_seconds: Annotated[float, Field(ge=0)] | None = None
    retrain_seconds: Annotated[float, Field(ge=0)] | None = None
    evaluate_seconds: Annotated[float, Field(ge=0)] | None = None
    peak_memory_mb: Annotated[float, Field(ge=0)] | None = None
    device: str | None = None


def record_of(measure: Measure) -> MeasureRecord:
    """Return `measure` as it stands in metrics.json."""
    return MeasureRecord(value=measure.value, ci95=measure.ci95, n=measure.n, note=measure.note)
