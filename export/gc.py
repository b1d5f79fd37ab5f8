"""Remove the weights of versions that nothing needs any more; what they were is still told."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bandstop.export.disk import Disk
from bandstop.export.errors import DiskError, ReleaseError, SpecError
from bandstop.export.history import event, forgets_of, never_served, stations
from bandstop.export.layout import stage_of
from bandstop.export.model_folder import ModelFolder, after, has_weights, read_model
from bandstop.export.place import Place
from bandstop.export.policy import neglected
from bandstop.export.record import CONFIG, MODEL
from bandstop.export.repository import changing
from bandstop.export.stage import replace_files


@dataclass(frozen=True, slots=True)
class Removed:
    """Weights that were removed: of which version, and how many bytes."""

    model: str
    version: int
    size: int


def gc(
    repo: Path,
    model: str | None = None,
    *,
    keep: int = 1,
    dry_run: bool = False,
    disk: Disk | None = None,
) -> list[Removed]:
    """Remove model.onnx of the superseded versions; return what was removed.

    A version stays whole while it is served, has never been served yet, or is among the `keep`
    last ones to which a rollback would be allowed. release.json and a signature stay in any case:
    so the number is not given again, and what the version forgot is known.

    Args:
        repo: the model repository.
        model: its name; None for all that Bandstop published.
        keep: how many versions of each model stay, to go back to.
        dry_run: only tell what would be removed.
        disk: how files are changed.

    Raises:
        SpecError: `repo` is no repository, there is no such model, or `keep` is negative.
        ReleaseError: a record in it is unreadable.
        DiskError: the disk is broken or read-only.
    """
    if keep < 0:
        raise SpecError(f"keep: expected 0 or more, got {keep}")
    removed: list[Removed] = []
    with changing(repo, None, disk, there=True) as place:
        for folder in _models(place.root, model):
            there = read_model(folder)
            found = superseded(there, keep)
            removed += found
            if not dry_run:
                _remove(place, there, found)
    return removed


def superseded(model: ModelFolder, keep: int) -> list[Removed]:
    """Return whose weights `gc` removes, ascending."""
    there = [v for v in sorted(model.records) if has_weights(model.path, v)]
    old = [v for v in there if v not in model.served and not never_served(model.history, v)]
    allowed = [v for v in old if not neglected(forgets_of(model.records[v]), model.history)]
    way = [v for v in reversed(stations(model.history)) if v in allowed]
    kept = [*way, *(v for v in reversed(allowed) if v not in way)][:keep]
    return [
        Removed(model.path.name, v, (model.path / str(v) / MODEL).lstat().st_size)
        for v in old
        if v not in kept
    ]


def _models(root: Path, model: str | None) -> Iterator[Path]:
    if model is not None:
        yield root / model
        return
    for folder in sorted(root.iterdir()):
        if (folder / CONFIG).is_file() and not folder.is_symlink():
            try:
                read_model(folder)
            except SpecError:
                continue  # not ours
            yield folder


def _remove(place: Place, model: ModelFolder, found: list[Removed]) -> None:
    """Write down what is removed, then remove it; the next gc goes on after an interruption.

    The config is written anew with it: were the newest file of all removed and nothing as new put
    there, Triton would not take up later changes.
    """
    told = model
    for one in found:
        if (model.path / str(one.version)).is_symlink():
            raise ReleaseError(f"{model.path / str(one.version)}: a link; a version is a folder")
        change = event("gc", one.version, model.records[one.version], (model.served, model.served))
        told = after(told, model.path, change)
    if told is not model:
        stage = stage_of(place.root, model.path.name, 0, place.disk)
        replace_files(model.path, told.files, stage, place.disk)
    for one in found:
        version = model.path / str(one.version)
        try:
            place.disk.remove(version / MODEL)
            place.disk.sync(version)
        except OSError as error:
            raise DiskError(
                f"{version / MODEL}: {(error.strerror or str(error)).lower()}; not all weights "
                "were removed; what is served is untouched; run gc again"
            ) from error
