"""What release.json says (no torch in here)."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from bandstop.export.canary_record import CanaryRecord
from bandstop.export.measure_record import MeasuredRecord
from bandstop.export.parity_record import ParityRecord
from bandstop.export.precision_record import Precision, PrecisionRecord
from bandstop.export.record_strict import Microseconds, Sha256, Strict, Whole

MODEL: Final = "model.onnx"
CONFIG: Final = "config.pbtxt"
LABELS: Final = "labels.txt"
RECORD: Final = "release.json"
SIGNATURE: Final = "signature.json"  # only in a signed release
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
RECORD_LIMIT, SIGNATURE_LIMIT = 16 << 20, 1 << 20  # bytes

ORDERS: Final[Mapping[int, Literal["RGB", "L"]]] = {1: "L", 3: "RGB"}  # by number of channels
Side = Annotated[int, Field(ge=1, le=8192)]
FileName = Literal["model.onnx", "config.pbtxt", "labels.txt"]


class TensorRecord(Strict):
    """An input or output of the served graph; `shape` is without the batch axis."""

    name: str
    dtype: Literal["FP32", "UINT8", "INT64"]
    shape: Annotated[list[Annotated[Whole, Field(ge=1)]], Field(min_length=1, max_length=3)]


class PreprocessRecord(Strict):
    """How an image file becomes the pixels that the graph takes; it normalises them itself.

    Attributes:
        size: height and width, of the centre crop where `resize` is given.
        order: of the channels, L where there is one; None in releases from before it was told.
    """

    size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    channels: Literal[1, 3]
    mean: list[float]
    std: list[float]
    resize: Side | None
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    input: Literal["float32", "uint8"]
    order: Literal["RGB", "L"] | None = None

    @model_validator(mode="after")
    def _order_fits(self) -> Self:
        if self.order not in (None, ORDERS[self.channels]):
            raise ValueError(f"order: {self.order} of {self.channels} channels")
        return self

    @property
    def text(self) -> str:
        """As it stands in config.pbtxt."""
        untold = {"order"} if self.order is None else set()
        return json.dumps(self.model_dump(mode="json", exclude=untold), sort_keys=True)


class ForgetRecord(Strict):
    """What the release forgets.

    Attributes:
        classes: written into the weights.
        instances: how many training images were unlearned; which ones is not told.
        always: forgotten in every request, beside what the request names.
        slots: how many classes a request names; 0 where requests have no say.
        allow_none: whether a request may ask to forget nothing, by the index after the last class.
        masked_logits: classes among `always` whose logit is switched off too: hidden, not forgotten
            any better.
        sets: names that a request may give for several classes together.
    """

    classes: list[int]
    instances: Whole
    always: list[int]
    slots: Whole
    allow_none: bool
    masked_logits: list[int] = Field(default_factory=list)
    sets: dict[str, list[int]] = Field(default_factory=dict)


class ServingRecord(Strict):
    """How the server runs the model; goes into config.pbtxt.

    Attributes:
        instances: with one alone, Triton (2.51) lets a request wait for half a second now and then:
            its batcher is not woken by one that comes while the last is being put away.
        queue_timeout_us: after which a request that waits is refused.
        max_queue_size: how many may wait; more are refused at once.
    """

    instances: Annotated[Whole, Field(ge=1)] = 2
    intra_op_threads: Whole = 1
    queue_delay_us: Microseconds = 0
    queue_timeout_us: Microseconds = 2_000_000
    max_queue_size: Whole = 256


class FileRecord(Strict):
    """Size in bytes and digest of a file."""

    size: int
    sha256: Sha256


class ReleaseRecord(Strict):
    """What release.json holds.

    Attributes:
        name: the model's name unless another is given when it is published.
        method: what made the edit; None for an unedited model.
        artifact_sha256: digest of the artifact's manifest; None for an unedited model.
        class_names: by index; a class that a baked release forgot has the empty name.
        parent_sha256: digest of the weights that the edit started from.
        parent_tensors: of a baked release, each tensor that the edit changed and the digest of its
            numbers before; the file holds none of these. None where nothing is known of them.
        measured: accuracies of the file itself; None where there was no data to measure with.
        precision: of a file of lower precision, how it compares; None for float32.
        canary: what the file answers to inputs that can be made anywhere; None in releases from
            before there was any.
    """

    format: Literal["bandstop-release/1"]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    mode: Literal["gated", "baked", "original"]
    method: str | None
    forget: ForgetRecord
    inputs: Annotated[list[TensorRecord], Field(min_length=1, max_length=2)]
    outputs: Annotated[list[TensorRecord], Field(min_length=1, max_length=2)]
    max_batch_size: Annotated[Whole, Field(ge=1)]
    class_names: Annotated[list[str], Field(min_length=2)]
    preprocess: PreprocessRecord
    serving: ServingRecord
    artifact_sha256: Sha256 | None
    parent_sha256: Sha256
    parity: ParityRecord
    versions: dict[str, str]
    files: dict[FileName, FileRecord]
    parent_tensors: dict[str, Sha256] | None = None
    measured: MeasuredRecord | None = None
    precision: PrecisionRecord | None = None
    canary: CanaryRecord | None = None

    @model_validator(mode="after")
    def _canary_fits(self) -> Self:
        if self.canary is not None:
            self.canary.refuse_other(self.forget.slots, len(self.class_names))
        return self

    @property
    def told_precision(self) -> Precision:
        """The precision that the file says it has."""
        return "float32" if self.precision is None else self.precision.kind


def record_bytes(record: ReleaseRecord) -> bytes:
    """Return `record` as the bytes of release.json; equal records give equal bytes."""
    text = json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False)
    return (text + "\n").encode()


def describe(files: Mapping[FileName, bytes]) -> dict[FileName, FileRecord]:
    """Return size and digest of each of `files`."""
    return {
        name: FileRecord(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }
