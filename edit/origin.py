"""What lies behind the model that a user names: how its data was divided, what it forgot before."""

from dataclasses import dataclass
from pathlib import Path

from bandstop.edit.checkpoint import describe_checkpoint
from bandstop.edit.manifest import Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Origin:
    """The past of a model.

    Attributes:
        split_seed: divided the data that it was trained on; None where nothing says so.
        forgotten: the classes that earlier edits took out or that it was trained without,
            ascending.
        instances: the training images that earlier edits took out, ascending.
    """

    split_seed: int | None = None
    forgotten: tuple[int, ...] = ()
    instances: tuple[int, ...] = ()


def is_checkpoint(model: str) -> bool:
    """Return whether `model` names a file rather than an architecture or an artifact."""
    return (":" not in model or Path(model).exists()) and not is_artifact(model)


def is_artifact(model: str) -> bool:
    """Return whether `model` names a folder."""
    return Path(model).is_dir()


def origin_of(model: str) -> Origin:
    """Return the past of what `model` names (see `load_model`).

    Raises:
        InputError: no such file.
        ArtifactError: the checkpoint or artifact is corrupt.
    """
    if is_artifact(model):
        manifest = read_manifest(Path(model))
        return Origin(manifest.split_seed, forgotten_by(manifest), instances_of(manifest))
    if is_checkpoint(model):
        described = describe_checkpoint(Path(model))
        return Origin(described.seed, tuple(sorted(described.without)))
    return Origin()


def forgotten_by(manifest: Manifest) -> tuple[int, ...]:
    """Return the classes that the model of `manifest` no longer knows; none of gates alone."""
    if manifest.kind == "gates":
        return tuple(manifest.forgotten_before)
    return tuple(sorted({*manifest.forgotten_before, *manifest.request.classes}))


def instances_of(manifest: Manifest) -> tuple[int, ...]:
    """Return the training images that the model of `manifest` was made to forget."""
    return tuple(sorted({*manifest.instances_before, *manifest.request.instances}))
