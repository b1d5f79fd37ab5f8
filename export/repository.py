"""Publish releases into a Triton model repository: each version appears whole or not at all.

    REPO/MODEL/config.pbtxt    says which versions are served; replacing it is the commit
    REPO/MODEL/labels.txt
    REPO/MODEL/VERSION/        model.onnx, labels.txt, release.json, signature.json where signed;
                               never changed again

A version is staged beside the repository: a half-made folder inside it can keep a server from
starting, and `2.tmp` is read as version 2. The stage's name is the journal of a publish: while it
is there, its version may be without a commit, and the next publish sweeps both away.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bandstop.export.config import config_text
from bandstop.export.disk import Disk
from bandstop.export.errors import SpecError
from bandstop.export.layout import (
    LABELS_BEFORE,
    locked,
    repository_root,
    stage_of,
    sweep,
    version_numbers,
    versions_served,
)
from bandstop.export.record import (
    CONFIG,
    LABELS,
    NAME_PATTERN,
    RECORD,
    SIGNATURE,
    ReleaseRecord,
    TensorRecord,
)
from bandstop.export.record_files import read_files, read_record
from bandstop.export.sign_record import read_signature


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version in a repository.

    Attributes:
        record: what was released; None for a version that Bandstop did not publish.
    """

    model: str
    version: int
    served: bool
    record: ReleaseRecord | None


def publish(
    release: Path, repo: Path, model: str | None = None, *, disk: Disk | None = None
) -> int:
    """Put the release folder `release` into `repo` as the one served version; return its number.

    Args:
        release: checked against its digests first; stays as it is.
        repo: the model repository; made if its parent exists.
        model: the model's name; None takes the release's own.
        disk: how files are changed.

    Raises:
        ReleaseError: the release is corrupt.
        SpecError: a bad name or path, another name than the release is signed for, or a model
            with other inputs or outputs.
        SignatureInvalid: its signature is none.
    """
    disk = disk or Disk()
    record, files = read_files(release)
    name = record.name if model is None else model
    if not re.fullmatch(NAME_PATTERN, name):
        raise SpecError(f"model name: expected {NAME_PATTERN}, got {name!r}")
    _refuse_other_name(files, name)
    root = repository_root(repo)
    content = {key: data for key, data in files.items() if key != CONFIG}
    with locked(root, disk):
        version = _next_version(root / name, record)
        stage = stage_of(root, name, version, disk)
        try:
            _put(root / name, version, record, content, stage, disk)
        except BaseException:
            with suppress(OSError):  # what cannot be swept now is swept by the next publish
                sweep(root, disk)
            raise
        disk.sync(root / name)
        disk.sync(root)
        disk.remove(stage)
    return version


def _refuse_other_name(files: Mapping[str, bytes], name: str) -> None:
    """Refuse a signed release under a name for which nobody could verify it any more."""
    if SIGNATURE not in files:
        return
    signed = read_signature(files[SIGNATURE], SIGNATURE)[0].model
    if signed != name:
        raise SpecError(
            f"model {name}: the release is signed for {signed}; publish it as that, or sign it anew"
        )


def versions(repo: Path) -> list[ModelVersion]:
    """Return every version of every model in `repo`, by name and number.

    Raises:
        SpecError: `repo` is not a folder.
        ReleaseError: a config.pbtxt or release.json in it is unreadable.
    """
    root = repository_root(repo)
    if not root.is_dir():
        raise SpecError(f"repository {repo}: no such folder; publish a release into it first")
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        numbers = version_numbers(folder)
        # without a policy Triton serves the latest
        served = versions_served(folder) or tuple(numbers[-1:])
        for number in numbers:
            file = folder / str(number) / RECORD
            record = read_record(file) if file.is_file() else None
            found.append(ModelVersion(folder.name, number, number in served, record))
    return found


def _put(
    folder: Path,
    version: int,
    record: ReleaseRecord,
    content: Mapping[str, bytes],
    stage: Path,
    disk: Disk,
) -> None:
    """Add a version to the model `folder`; the last step commits it, `sweep` undoes the others."""
    first = not (folder / CONFIG).exists()
    if stage.parent == folder and not folder.exists():
        disk.make(folder)
    disk.make(stage)
    config = config_text(folder.name, {version: record}).encode()
    if first and stage.parent != folder:
        whole = stage / folder.name
        _fill(whole, {LABELS: content[LABELS], CONFIG: config}, disk)
        _fill(whole / str(version), content, disk)
        disk.sync(whole)
        disk.rename(whole, folder)
        return
    _fill(stage / str(version), content, disk)
    disk.rename(stage / str(version), folder / str(version))
    disk.sync(folder)
    _replace_labels(folder / LABELS, content[LABELS], stage, disk)
    _commit(folder, config, stage, disk)


def _fill(folder: Path, content: Mapping[str, bytes], disk: Disk) -> None:
    disk.make(folder)
    for name, data in content.items():
        disk.write(folder / name, data)
    disk.sync(folder)


def _replace_labels(file: Path, labels: bytes, stage: Path, disk: Disk) -> None:
    if file.exists():
        if file.read_bytes() == labels:
            return
        disk.write(stage / LABELS, file.read_bytes())
        disk.rename(stage / LABELS, stage / LABELS_BEFORE)  # so that it is there whole or not
        disk.sync(stage)
    disk.write(stage / LABELS, labels)
    disk.rename(stage / LABELS, file)


def _commit(folder: Path, config: bytes, stage: Path, disk: Disk) -> None:
    """Replace config.pbtxt by one newer than all else: Triton reloads only if the newest grew."""
    disk.write(stage / CONFIG, config)
    times = [path.lstat() for path in (folder, *folder.rglob("*"))]
    newest = max(max(t.st_mtime_ns, t.st_ctime_ns) for t in times)
    disk.set_modified(stage / CONFIG, max(time.time_ns(), newest + 1_000_000))
    disk.rename(stage / CONFIG, folder / CONFIG)


def _next_version(folder: Path, record: ReleaseRecord) -> int:
    """Return the number of the next version, after checking that `record` fits the model."""
    if not os.path.lexists(folder):
        return 1
    numbers = version_numbers(folder)
    file = folder / str(numbers[-1]) / RECORD if numbers else None
    if folder.is_symlink() or file is None or not file.is_file() or not (folder / CONFIG).is_file():
        raise SpecError(
            f"model {folder.name}: {folder} was not published by bandstop; choose another name"
        )
    before = read_record(file)
    if (before.inputs, before.outputs) != (record.inputs, record.outputs):
        raise SpecError(
            f"model {folder.name}: version {numbers[-1]} has {_interface(before)}, the release has "
            f"{_interface(record)}; publish it under another name"
        )
    return max(*numbers, *versions_served(folder)) + 1


def _interface(record: ReleaseRecord) -> str:
    def show(tensors: Sequence[TensorRecord]) -> str:
        return ", ".join(f"{t.name} {t.dtype} {t.shape}" for t in tensors)

    return f"{show(record.inputs)} -> {show(record.outputs)}"
