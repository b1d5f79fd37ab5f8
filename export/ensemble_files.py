"""The parts of an ensemble in a repository: written one after the other, each loaded at once."""

from typing import Final

from bandstop.export.ensemble_config import (
    DECODE,
    IMAGES,
    NAMES,
    PARTS,
    Ensemble,
    Records,
    configs,
)
from bandstop.export.errors import ExportError
from bandstop.export.layout import stage_of, version_numbers
from bandstop.export.place import Place
from bandstop.export.record import CONFIG, MODEL, ReleaseRecord
from bandstop.export.stage import first, replace_files, take_out

# in a version's folder, for no storage keeps empty ones: the digest of the model.onnx
DIGEST: Final = "digest.txt"


def put_all(place: Place, ensemble: Ensemble, kept: Records) -> None:
    """Write the steps and the ensemble, so that each commit leaves an ensemble that works.

    Args:
        place: where.
        ensemble: as it is to be.
        kept: the versions that the steps serve until the ensemble has moved on.
    """
    model, version, top_k = ensemble.model, ensemble.version, ensemble.top_k
    alone = {version: kept[version]}
    texts = configs(ensemble, kept)
    for part in (DECODE, NAMES):
        _put(place, model + part, texts[part], kept)
    _put(place, model + IMAGES, texts[IMAGES], alone)
    if place.server is not None:
        place.server.prove_images(model, version, kept[version], top_k)
    if len(kept) > 1:
        for part in (DECODE, NAMES):
            _put(place, model + part, configs(ensemble, alone)[part], alone)


def _put(place: Place, name: str, config: str, served: Records) -> None:
    """Replace the model `name` by one of this `config`, and have the server load it."""
    folder, disk = place.root / name, place.disk
    there = version_numbers(folder) if folder.is_dir() else []
    content = {v: {DIGEST: _digest(record)} for v, record in served.items() if v not in there}
    files = {CONFIG: config.encode()}
    for version in content or (0,):  # never more than one: the others were there before
        stage = stage_of(place.root, name, version, disk)
        added = content.get(version)
        if added is not None and not folder.exists() and stage.parent != folder:
            first(folder, files, added, stage, disk, version)
        else:
            replace_files(folder, files, stage, disk, added=added)
        there.append(version)
    if place.server is not None:
        place.server.load(name)
    for version in {*version_numbers(folder)} - {*served}:
        disk.remove(folder / str(version))  # of a step there is nothing to go back to


def take_away(place: Place, model: str) -> str:
    """Remove an ensemble that could not be made; return what could not be done."""
    told = ""
    for name in (model + part for part in PARTS):
        try:
            if place.server is not None:
                place.server.unload(name)
            if (place.root / name).is_dir():
                stage = stage_of(place.root, name, 0, place.disk)
                take_out(place.root / name, stage, place.disk)
        except (OSError, ExportError) as error:
            told += f"; {name} could not be removed: {error}"
    return told


def _digest(record: ReleaseRecord) -> bytes:
    return f"{record.files[MODEL].sha256}\n".encode()
