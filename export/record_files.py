"""Releases read back from their folder, with every digest checked (no torch in here)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bandstop.export.errors import ReleaseError, schema_misfits
from bandstop.export.record import (
    CONFIG,
    LABELS,
    MODEL,
    RECORD,
    RECORD_LIMIT,
    SIGNATURE,
    SIGNATURE_LIMIT,
    FileRecord,
    ReleaseRecord,
)


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
    files = {str(name): checked(path / name, known) for name, known in record.files.items()}
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


def _signature(file: Path) -> bytes:
    if file.is_symlink() or not file.is_file():
        raise ReleaseError(f"{file}: not a regular file")
    if file.stat().st_size > SIGNATURE_LIMIT:
        raise ReleaseError(f"{file}: larger than {SIGNATURE_LIMIT} bytes")
    return file.read_bytes()


def checked(file: Path, known: FileRecord) -> bytes:
    """Return the content of `file`, which must be what the record says.

    Raises:
        ReleaseError: it is not.
    """
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
