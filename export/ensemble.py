"""An ensemble beside a model: made, moved on with the model's versions, never ahead of them.

The ensemble answers with one version of the model, which is served as long as it does:

    1. the model serves the old version and the new one
    2. so do the two steps; then the ensemble names the new one; then the steps drop the old one
    3. the model drops the old one

After each commit all that the ensemble names is served, so an interruption leaves one that works,
with the old version or the new. Should the model let go of the version all the same, Triton takes
the ensemble away: it does not answer, rather than with another version's names.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.export.ensemble_config import (
    DECODE,
    IMAGES,
    NAMES,
    PARTS,
    Ensemble,
    Records,
    check_ensemble,
)
from bandstop.export.ensemble_files import put_all, take_away
from bandstop.export.errors import ExportError, NotServed, SpecError
from bandstop.export.place import Place
from bandstop.export.record import CONFIG, ReleaseRecord

BACKENDS: Final = {IMAGES: "ensemble", DECODE: "bandstop_images", NAMES: "bandstop_names"}


def ensemble_of(root: Path, model: str) -> Ensemble | None:
    """Return the ensemble of `model` in the repository at `root`; None where it has none.

    Raises:
        SpecError: its configuration cannot be read.
    """
    folder = root / f"{model}{IMAGES}"
    if not (folder / CONFIG).is_file():
        return None
    config = _config(folder)
    steps = {step.model_name: step.model_version for step in config.ensemble_scheduling.step}
    named = [output.dims[0] for output in config.output if output.name == "names" and output.dims]
    if steps.keys() != {model + DECODE, model, model + NAMES} or not named:
        return None  # a model of its own that has such a name
    return Ensemble(model, steps[model], config.max_batch_size, named[0])


def part_of(folder: Path) -> str | None:
    """Return the name of the model of whose ensemble `folder` is a part; None where it is none."""
    for part in PARTS:
        model = folder.name.removesuffix(part)
        if model != folder.name and model and (folder / CONFIG).is_file():
            with suppress(SpecError):
                config = _config(folder)
                if (config.backend or config.platform) == BACKENDS[part]:
                    return model
    return None


def check_attach(root: Path, model: str, record: ReleaseRecord, top_k: int) -> None:
    """Refuse where `attach` cannot work; asked before the model itself is changed.

    Raises:
        SpecError: the model cannot have an ensemble, or has another one.
    """
    check_ensemble(model, record, top_k)
    there = ensemble_of(root, model)
    if there is None:
        _refuse_others(root, model)
    elif there.top_k != top_k:
        raise SpecError(
            f"model {model}{IMAGES}: names {there.top_k} classes, got top-k {top_k}; that belongs "
            f"to its name: remove {', '.join(model + part for part in PARTS)} first"
        )


def attach(place: Place, model: str, version: int, record: ReleaseRecord, top_k: int) -> None:
    """Make the ensemble of `model`, which serves `version` alone, unless it has one already.

    Raises:
        NotServed: the server does not serve it; there is none then.
    """
    if ensemble_of(place.root, model) is not None:
        return
    made = Ensemble(model, version, record.max_batch_size, top_k)
    try:
        put_all(place, made, {version: record})
    except BaseException as error:
        told = take_away(place, model)
        if isinstance(error, NotServed | OSError):
            raise NotServed(
                f"{error}; model {model} serves version {version}, without an ensemble{told}"
            ) from error
        raise


def move_on(
    place: Place, ensemble: Ensemble, version: int, records: Records, served: tuple[int, ...]
) -> Ensemble:
    """Have the ensemble answer with `version`, and have the server prove it.

    Args:
        place: where.
        ensemble: as it is.
        version: that it is to answer with.
        records: of the model's versions.
        served: what the model serves now; `version`, and while it answers the present one.

    Raises:
        NotServed: the server does not serve it; the ensemble is as it was.
        OSError: a file could not be changed; same.
    """
    moved = replace(ensemble, version=version)
    kept = {v: records[v] for v in (ensemble.version, version) if v in served}
    try:
        put_all(place, moved, kept)
    except BaseException:
        with suppress(OSError, ExportError):  # the first failure is the one to tell
            put_all(place, ensemble, kept)
        raise
    return moved


def check_batch(ensemble: Ensemble, record: ReleaseRecord) -> None:
    """Refuse a version that takes fewer rows than the ensemble; Triton would take that away."""
    if record.max_batch_size < ensemble.most:
        raise SpecError(
            f"model {ensemble.model}: max_batch_size {record.max_batch_size}, but its ensemble "
            f"takes {ensemble.most} images at once; export it with at least that, or remove "
            f"{', '.join(ensemble.model + part for part in PARTS)} first"
        )


def _config(folder: Path) -> triton.ModelConfig:
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        return text_format.Parse(text, triton.ModelConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        said = " ".join(str(error).split())
        raise SpecError(f"{folder / CONFIG}: cannot be read: {said}") from error


def _refuse_others(root: Path, model: str) -> None:
    """Refuse to put a part in the place of somebody's model."""
    for folder in (root / f"{model}{part}" for part in PARTS):
        if (folder / CONFIG).is_file() and part_of(folder) is None:
            raise SpecError(
                f"model {folder.name}: in the repository, and no part of an ensemble; publish "
                f"{model} under another name"
            )
