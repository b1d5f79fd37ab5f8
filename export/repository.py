"""Publish releases into a Triton model repository: each version appears whole or not at all.

    REPO/MODEL/config.pbtxt    says which versions are served; replacing it is the commit
    REPO/MODEL/labels.txt      of the highest version that is served
    REPO/MODEL/history.json    what was done to the model
    REPO/MODEL/VERSION/        model.onnx, labels.txt, release.json, signature.json where signed;
                               never changed again

A version is staged beside the repository: a half-made folder inside it can keep a server from
starting, and `2.tmp` is read as version 2.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bandstop.export.disk import Disk, disk_errors
from bandstop.export.ensemble import attach, check_attach, part_of
from bandstop.export.errors import SpecError
from bandstop.export.history import Action, event
from bandstop.export.layout import locked, repository_root, version_numbers, versions_served
from bandstop.export.model_folder import (
    ModelFolder,
    after,
    has_weights,
    next_number,
    read_model,
    stable,
)
from bandstop.export.place import Place
from bandstop.export.policy import check_policy
from bandstop.export.publish_checks import (
    refuse_interface,
    refuse_other_name,
    refuse_pixels,
)
from bandstop.export.record import (
    CONFIG,
    NAME_PATTERN,
    RECORD,
    ReleaseRecord,
)
from bandstop.export.record_files import read_files, read_record
from bandstop.export.serving import Server
from bandstop.export.transition import carry_out


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version in a repository.

    Attributes:
        record: what was released; None for a version that Bandstop did not publish.
        weights: whether its model.onnx is there; `gc` removes it.
        part_of: the model of whose ensemble it is a part; None for what is none.
    """

    model: str
    version: int
    served: bool
    record: ReleaseRecord | None
    weights: bool = True
    part_of: str | None = None


def publish(
    release: Path,
    repo: Path,
    model: str | None = None,
    *,
    serve: bool = True,
    canary: bool = False,
    override: str | None = None,
    top_k: int | None = None,
    server: Server | None = None,
    disk: Disk | None = None,
) -> int:
    """Put the release folder `release` into `repo` as the next version; return its number.

    Args:
        release: checked against its digests first; stays as it is.
        repo: the model repository; made if its parent exists.
        model: the model's name; None takes the release's own.
        serve: whether the version is served from now on, alone; the first is in any case.
        canary: serve it beside the version that is served now.
        override: why a version that forgets less than the model must is served all the same.
        top_k: makes an ensemble beside the model that takes encoded pictures and names so many
            classes; where there is one, it goes on with the version that is served in any case.
        server: takes the version up and proves it; else everything is as it was.
        disk: how files are changed.

    Raises:
        ReleaseError: the release is corrupt.
        SpecError: a bad name or path, another name than the release is signed for, a model
            with other inputs or outputs, or pixels that no client can make.
        SignatureInvalid: its signature is none.
        RefusedByPolicy: it would know again what the model was asked to forget.
        NotServed: the server does not serve it; what was served before is back.
        DiskError: the disk is full, broken or read-only.
    """
    if canary and not serve:
        raise SpecError("a canary is served: leave out either canary or no-serve")
    if top_k is not None and (canary or not serve):
        raise SpecError("an ensemble answers with what is served: leave out canary and no-serve")
    record, files = read_files(release)
    name = record.name if model is None else model
    if not re.fullmatch(NAME_PATTERN, name):
        raise SpecError(f"model name: expected {NAME_PATTERN}, got {name!r}")
    refuse_other_name(files, name)
    refuse_pixels(record)
    content = {key: data for key, data in files.items() if key != CONFIG}
    needed = sum(map(len, files.values()))
    with changing(repo, server if serve else None, disk, needed) as place:
        if top_k is not None:
            check_attach(place.root, name, record, top_k)
        folder = place.root / name
        before = read_model(folder) if os.path.lexists(folder) else None
        version = 1 if before is None else next_number(before)
        served = _served(before, record, version, serve=serve, canary=canary)
        if before is not None and version in served:
            check_policy(f"model {name}: the release", record, before.history, override)
        action: Action = "canary" if canary and before else "publish"
        change = event(action, version, record, (before.served if before else (), served), override)
        carry_out(place, before, [after(before, folder, change, record)], content)
        if top_k is not None:
            attach(place, name, version, record, top_k)
    return version


@contextmanager
def changing(
    repo: Path, server: Server | None, disk: Disk | None, needed: int = 0, *, there: bool = False
) -> Iterator[Place]:
    """Give the place of a change to `repo`, which nobody else changes meanwhile.

    Args:
        repo: the repository.
        server: must answer before anything is changed.
        disk: how files are changed; None for the real one.
        needed: bytes that the change writes.
        there: whether the repository must be there already.

    Raises:
        SpecError: `repo` is no repository.
        NotServed: the server does not answer.
        DiskError: the disk is full, broken or read-only.
    """
    disk = disk or Disk()
    root = repository_root(repo, there=there)
    if server is not None:
        server.reach()
    with disk_errors(root, needed), locked(root, disk):
        yield Place(root, disk, server)


def versions(repo: Path) -> list[ModelVersion]:
    """Return every version of every model in `repo`, by name and number.

    Raises:
        SpecError: `repo` is not a folder.
        ReleaseError: a config.pbtxt or release.json in it is unreadable.
    """
    root = repository_root(repo, there=True)
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        numbers, whole = version_numbers(folder), part_of(folder)
        # without a policy Triton serves the latest
        served = versions_served(folder) or tuple(numbers[-1:])
        for number in numbers:
            file = folder / str(number) / RECORD
            record = read_record(file) if file.is_file() else None
            weights = record is None or has_weights(folder, number)
            found.append(
                ModelVersion(folder.name, number, number in served, record, weights, whole)
            )
    return found


def _served(
    before: ModelFolder | None,
    record: ReleaseRecord,
    version: int,
    *,
    serve: bool,
    canary: bool,
) -> tuple[int, ...]:
    """Return what is served once the release is `version`, after checking that it fits."""
    if before is None:
        return (version,)
    refuse_interface(before, record)
    if not serve:
        return before.served
    if not canary:
        return (version,)
    beside = stable(before)
    if beside is None:
        raise SpecError(
            f"model {before.path.name}: serves versions {list(before.served)}, promote one of them "
            "before a canary"
        )
    return (beside, version)
