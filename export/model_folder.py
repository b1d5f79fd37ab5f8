"""What a model's folder in a repository says: its own files, and a record of each version."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bandstop.export.config import config_text, labels_text
from bandstop.export.errors import ReleaseError, SpecError
from bandstop.export.history import (
    HISTORY,
    Event,
    History,
    event,
    history_bytes,
    read_history,
    stations,
)
from bandstop.export.layout import version_numbers, versions_served
from bandstop.export.record import CONFIG, LABELS, MODEL, RECORD, ReleaseRecord
from bandstop.export.record_files import checked, read_record

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # also of a file


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model in a repository, as it is or as it is to become.

    Attributes:
        path: the folder.
        config: content of config.pbtxt.
        labels: content of labels.txt.
        history: what was done to it.
        served: the versions that the config serves.
        records: version -> what was released, of those that Bandstop published.
    """

    path: Path
    config: bytes
    labels: bytes
    history: History
    served: tuple[int, ...]
    records: Mapping[int, ReleaseRecord]

    @property
    def files(self) -> dict[str, bytes]:
        """The model's own files by name, in the order in which they are replaced."""
        history = history_bytes(self.history)
        return {LABELS: self.labels, HISTORY: history, CONFIG: self.config}

    @property
    def newest(self) -> int:
        """The highest version that Bandstop published."""
        return max(self.records)

    def served_records(self) -> dict[int, ReleaseRecord]:
        """Return version -> record of what is served.

        Raises:
            SpecError: Bandstop did not publish one of them.
        """
        if unknown := sorted({*self.served} - {*self.records}):
            raise SpecError(
                f"model {self.path.name}: serves version {unknown[0]}, which was not published by "
                "bandstop; promote one that was"
            )
        return {version: self.records[version] for version in self.served}


def read_model(folder: Path) -> ModelFolder:
    """Return what the model `folder` says.

    Raises:
        SpecError: there is no such model, or Bandstop did not publish it.
        ReleaseError: a file in it is not what it should be.
    """
    if not os.path.lexists(folder):
        raise SpecError(f"model {folder.name}: not in the repository {folder.parent}")
    if folder.is_symlink():
        raise SpecError(
            f"model {folder.name}: {folder} is a link, behind which Triton misses changes; "
            "put the folder itself in its place"
        )
    numbers = version_numbers(folder) if folder.is_dir() else []
    newest = folder / str(numbers[-1]) / RECORD if numbers else None
    if not (newest and newest.is_file() and (folder / CONFIG).is_file()):
        raise SpecError(
            f"model {folder.name}: {folder} was not published by bandstop; choose another name"
        )
    files = {n: folder / str(n) / RECORD for n in numbers}
    records = {n: read_record(file) for n, file in files.items() if os.path.lexists(file)}
    served = versions_served(folder)
    labels = folder / LABELS
    return ModelFolder(
        path=folder,
        config=(folder / CONFIG).read_bytes(),
        labels=labels.read_bytes() if labels.is_file() else b"",
        history=_with_found(read_history(folder) or History(events=[]), served, records),
        served=served,
        records=records,
    )


def after(
    model: ModelFolder | None, folder: Path, change: Event, record: ReleaseRecord | None = None
) -> ModelFolder:
    """Return what `folder` will say once `change` has happened; nothing is written.

    Args:
        model: what it says now; None for a first publish.
        folder: the model's folder.
        change: what happens.
        record: of a version that is added.
    """
    added = {change.version: record} if record else {}
    records = {**(model.records if model else {}), **added}
    history = (model.history if model else History(events=[])).and_then(change)
    served = tuple(change.after)
    if model and served == model.served:  # what its operator set in the config stays
        return replace(model, history=history, records=records)
    config = config_text(folder.name, {v: records[v] for v in served}).encode()
    labels = labels_text(records[max(served)].class_names).encode()
    return ModelFolder(folder, config, labels, history, served, records)


def next_number(model: ModelFolder) -> int:
    """Return a number that no version of `model` has or ever had."""
    names = [p.name for p in model.path.iterdir() if _NUMBER.fullmatch(p.name)]
    past = [e.version for e in model.history.events]
    return max(0, *map(int, names), *model.served, *past) + 1


def stable(model: ModelFolder) -> int | None:
    """Return the version that is served without being a canary; None where nobody can tell."""
    alone = [e.version for e in model.history.events if e.alone]
    if len(model.served) == 1:
        return model.served[0]
    return alone[-1] if alone and alone[-1] in model.served else None


def has_weights(folder: Path, version: int) -> bool:
    """Return whether the files of `version` are still there."""
    return os.path.lexists(folder / str(version) / MODEL)


def check_version(model: ModelFolder, version: int) -> ReleaseRecord:
    """Return the record of `version`, after checking its files against their digests.

    Raises:
        SpecError: there is no such version, or its weights were removed.
        ReleaseError: a file is corrupt.
    """
    name = model.path.name
    if version not in model.records:
        known = ", ".join(map(str, sorted(model.records)))
        raise SpecError(f"model {name}: no version {version} by bandstop; expected one of {known}")
    record, folder = model.records[version], model.path / str(version)
    if not has_weights(model.path, version):
        raise SpecError(
            f"model {name}: the weights of version {version} were removed; publish its release anew"
        )
    if folder.is_symlink():
        raise ReleaseError(f"{folder}: a link; a version is a folder")
    for file, known_file in record.files.items():
        if file != CONFIG:  # the model's own, one level up
            checked(folder / file, known_file)
    return record


def _with_found(
    history: History, served: tuple[int, ...], records: Mapping[int, ReleaseRecord]
) -> History:
    """Return `history` with what is served though no event says so.

    A model that was published before there were histories has none; and a config can be edited.
    """
    if history.events and (len(served) != 1 or stations(history)[-1:] == [*served]):
        return history
    found = (event("found", v, records.get(v), ((), (v,))) for v in served)
    return history.and_then(*found)
