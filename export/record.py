"""What release.json says, and releases read back with every digest checked (no torch in here)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bandstop.export.errors import ReleaseError, schema_misfits

MODEL: Final = "model.onnx"
CONFIG: Final = "config.pbtxt"
LABELS: Final = "labels.txt"
RECORD: Final = "release.json"
SIGNATURE: Final = "signature.json"  # only in a signed release
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
RECORD_LIMIT, SIGNATURE_LIMIT = 16 << 20, 1 << 20  # bytes

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Literal["model.onnx", "config.pbtxt", "labels.txt"]


class Strict(BaseModel):
    """A part of release.json: no field too many, none missing, no conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TensorRecord(Strict):
    """An input or output of the served graph; `shape` is without the batch axis."""

    name: str
    dtype: Literal["FP32", "UINT8", "INT64"]
    shape: list[int]


class PreprocessRecord(Strict):
    """How an image file becomes the pixels that the graph takes; it normalises them itself."""

    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    channels: int
    mean: list[float]
    std: list[float]
    resize: int | None
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    input: Literal["float32", "uint8"]


class ForgetRecord(Strict):
    """What the release forgets.

    Attributes:
        classes: written into the weights.
        instances: how many training images were unlearned; which ones is not told.
        always: forgotten in every request, beside what the request names.
        slots: how many classes a request names; 0 where requests have no say.
        allow_none: whether a request may ask to forget nothing, by the index after the last class.
    """

    classes: list[int]
    instances: int
    always: list[int]
    slots: int
    allow_none: bool


class ParityRecord(Strict):
    """How closely ONNX Runtime agreed with PyTorch on literally masked weights.

    Attributes:
        max_abs: largest absolute difference of a logit.
        tolerance: what was allowed.
        rows: how many of the rows that a request can name were checked; 1 where it names none.
        rows_total: how many it can name.
        combinations: sets of different rows named together that were checked.
        row_gap: what a wrong row would have changed at least, the smallest difference between two
            neighbouring rows; where it is below the tolerance parity cannot tell them apart.
        images: different images used.
        compared: pairs of row and image, each compared over all logits.
        batches: the different batch sizes run.
        refused: requests with an index out of range that were refused as they should be.
    """

    max_abs: float
    tolerance: float
    rows: int
    rows_total: int
    combinations: int
    row_gap: float | None
    images: int
    compared: int
    batches: list[int]
    refused: int


class ServingRecord(Strict):
    """How the server runs the model; goes into config.pbtxt."""

    instances: Annotated[int, Field(ge=1)] = 1
    intra_op_threads: Annotated[int, Field(ge=0)] = 1
    queue_delay_us: Annotated[int, Field(ge=0)] = 0
    queue_timeout_us: Annotated[int, Field(ge=0)] = 500_000
    max_queue_size: Annotated[int, Field(ge=0)] = 256


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
    """

    format: Literal["bandstop-release/1"]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    mode: Literal["gated", "baked", "original"]
    method: str | None
    forget: ForgetRecord
    inputs: list[TensorRecord]
    outputs: list[TensorRecord]
    max_batch_size: Annotated[int, Field(ge=1)]
    class_names: Annotated[list[str], Field(min_length=2)]
    preprocess: PreprocessRecord
    serving: ServingRecord
    artifact_sha256: Sha256 | None
    parent_sha256: Sha256
    parity: ParityRecord
    versions: dict[str, str]
    files: dict[FileName, FileRecord]


@dataclass(frozen=True, slots=True)
class Release:
    """A release folder and what its release.json says."""

    path: Path
    record: ReleaseRecord


def load_release(path: Path) -> Release:
    """Return the release in the folder `path`, after checking every file against its digest.

    Raises:
        ReleaseError: something is missing, unlisted, corrupt or does not fit.
    """
    return Release(path, read_files(path)[0])


def read_files(path: Path) -> tuple[ReleaseRecord, dict[str, bytes]]:
    """Return the record and the checked content of each file of the release folder `path`.

    The signature, where there is one, comes with them; `verify` tells whether it is good.

    Raises:
        ReleaseError: something is missing, unlisted, corrupt or does not fit.
    """
    record = read_record(path / RECORD)
    wanted = {MODEL, CONFIG, LABELS}
    if set(record.files) != wanted:
        raise ReleaseError(f"{path}: lists {sorted(record.files)}, expected {sorted(wanted)}")
    there = {entry.name for entry in path.iterdir()}
    misfits = [f"missing {name}" for name in sorted(wanted - there)]
    misfits += [f"unlisted file {name}" for name in sorted(there - wanted - {RECORD, SIGNATURE})]
    if misfits:
        raise ReleaseError(f"{path}: {', '.join(misfits)}; export it again")
    files = {str(name): _checked(path / name, known) for name, known in record.files.items()}
    files[RECORD] = (path / RECORD).read_bytes()
    if SIGNATURE in there:
        files[SIGNATURE] = _signature(path / SIGNATURE)
    return record, files


def read_record(file: Path) -> ReleaseRecord:
    """Return what the release.json `file` says; only its own shape is checked.

    Raises:
        ReleaseError: no such file, or not of the shape of a release.json.
    """
    if not file.is_file() or file.is_symlink():
        raise ReleaseError(f"{file.parent}: not a release, expected a folder with a {RECORD}")
    if file.stat().st_size > RECORD_LIMIT:
        raise ReleaseError(f"{file}: larger than {RECORD_LIMIT} bytes")
    return parse_record(file.read_bytes(), str(file))


def parse_record(data: bytes, where: str) -> ReleaseRecord:
    """Return what the content `data` of a release.json says.

    Args:
        data: the content.
        where: the file's name, for messages.

    Raises:
        ReleaseError: not of the shape of a release.json.
    """
    try:
        return ReleaseRecord.model_validate_json(data)
    except ValidationError as error:
        told = schema_misfits(error, "file", most=8)
        raise ReleaseError(f"{where}: not a valid release record: {told}") from error


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


def _signature(file: Path) -> bytes:
    if file.is_symlink() or not file.is_file():
        raise ReleaseError(f"{file}: not a regular file")
    if file.stat().st_size > SIGNATURE_LIMIT:
        raise ReleaseError(f"{file}: larger than {SIGNATURE_LIMIT} bytes")
    return file.read_bytes()


def _checked(file: Path, known: FileRecord) -> bytes:
    if file.is_symlink() or not file.is_file():
        raise ReleaseError(f"{file}: not a regular file")
    if file.stat().st_size != known.size:
        raise ReleaseError(
            f"{file}: {file.stat().st_size} bytes, expected {known.size}; the file is corrupt"
        )
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != known.sha256:
        raise ReleaseError(
            f"{file}: digest {digest[:12]}..., expected {known.sha256[:12]}...; the file is corrupt"
        )
    return data
