"""A trained classifier as one safetensors file, whose metadata tells what is needed to use it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from bandstop.edit import tensors
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.records import (
    ArchRecord,
    ClassNames,
    PreprocessRecord,
    Strict,
    description,
    misfits,
)
from bandstop.edit.skeleton import skeleton
from bandstop.edit.storage import canonical_json, library_versions, write_file
from bandstop.edit.train import Recipe

FORMAT = "bandstop-checkpoint/1"
_KEY = "bandstop"


class Description(Strict):
    """What the metadata of a checkpoint holds.

    Attributes:
        format: of the file.
        arch: the network.
        class_names: by index.
        preprocess: of its images.
        seed: of its training, which also divided its data.
        versions: of what trained it.
        without: the classes it was not trained on.
        recipe: how it was trained from nothing; None: not known, or it was not.
    """

    format: Literal["bandstop-checkpoint/1"]
    arch: ArchRecord
    class_names: ClassNames
    preprocess: PreprocessRecord
    seed: int
    versions: dict[str, str]
    without: tuple[int, ...] = ()
    recipe: Recipe | None = None


def save_checkpoint(
    out: Path,
    model: Classifier,
    *,
    seed: int,
    without: Sequence[int] = (),
    recipe: Recipe | None = None,
) -> None:
    """Write `model` as the new file `out`; the same model gives the same bytes.

    Args:
        out: the file; must not exist.
        model: as it was trained.
        seed: of its training, which also divided its data.
        without: the classes that it was not trained on.
        recipe: see `Description`.

    Raises:
        InputError: `out` exists, or BatchNorm is folded already: that is what an artifact holds.
    """
    if model.bn_folded:
        raise InputError("a checkpoint holds a network as it was trained, got a folded one")
    record = {
        "format": FORMAT,
        "seed": seed,
        "versions": library_versions(),
        **description(model),
        **({"without": list(without)} if without else {}),
        **({"recipe": asdict(recipe)} if recipe else {}),
    }
    metadata = {_KEY: canonical_json(record).decode()}
    write_file(out, tensors.dump(model.network.state_dict(), metadata))


def describe_checkpoint(path: Path) -> Description:
    """Return what the checkpoint `path` says of itself; its weights are not looked at.

    Raises:
        InputError: no such file.
        ArtifactError: not a checkpoint, or its description is corrupt.
    """
    return _described(_read(path), path)


def load_checkpoint(path: Path, *, trust_factory: bool = False) -> Classifier:
    """Return the classifier in the checkpoint `path`; everything is checked against its arch.

    Raises:
        InputError: no such file, or a network that cannot be built or is not trusted.
        ArtifactError: not a checkpoint, corrupt, or of another network than it says.
    """
    data = _read(path)
    record = _described(data, path)
    prep = record.preprocess.preprocess()
    arch, names = record.arch.arch(), tuple(record.class_names)
    try:
        network = skeleton(arch, len(names), prep, len(data), trust_factory=trust_factory)
    except (InputError, ArtifactError) as error:
        raise type(error)(f"{path}: {error}") from error
    network.load_state_dict(tensors.load(data, network.state_dict(), str(path)))
    return Classifier(network, arch, prep, names)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    return path.read_bytes()


def _described(data: bytes, path: Path) -> Description:
    metadata = tensors.check_header(data, str(path))
    if _KEY not in metadata:
        raise ArtifactError(f"{path}: not a checkpoint of bandstop train (no description inside)")
    try:
        return Description.model_validate_json(metadata[_KEY])
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a valid checkpoint: {misfits(error)}") from error
    except InputError as error:  # of the recipe
        raise ArtifactError(f"{path}: not a valid checkpoint: {error}") from error
