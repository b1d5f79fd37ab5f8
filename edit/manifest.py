"""What an artifact's manifest.json says: what was asked, what was done, of what."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from bandstop.edit import tensors
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.method import Method
from bandstop.edit.records import ArchRecord, ClassNames, PreprocessRecord, Sha256, Strict, misfits
from bandstop.edit.storage import canonical_json, sha256

FORMAT = "bandstop-artifact/1"
MANIFEST, MODEL, GATES = "manifest.json", "model.safetensors", "gates.safetensors"
_MANIFEST_LIMIT = 16 << 20  # bytes; a thousand class names take 20 kB


class RequestRecord(Strict):
    """See `ForgetRequest`."""

    classes: list[int]
    instances: list[int]
    labels: list[int] = Field(default_factory=list)


class FileRecord(Strict):
    """Size in bytes and digest of a file."""

    size: int
    sha256: Sha256


class Manifest(Strict):
    """What manifest.json holds.

    Attributes:
        found: what the method chose and saw (grid points, losses, how much each layer changed).
        parent_sha256: digest of the weights that the edit started from, BatchNorm not yet folded.
        forgotten_before: the classes that earlier edits of the same network took out.
        instances_before: the training images that they took out.
        split_seed: divided the data that the network was trained on; None where nothing says so.
        stand_in: what stood in for the training images, `synthesised` or a kind of data; None
            where they were at hand.
        parent_tensors: of edited weights, each tensor that the edit changed and the digest of its
            numbers before, BatchNorm folded; None where nothing says so.
    """

    format: Literal["bandstop-artifact/1"]
    kind: Literal["weights", "gates"]
    arch: ArchRecord
    bn_folded: bool | Literal["apart"]
    class_names: ClassNames
    preprocess: PreprocessRecord
    method: str
    params: dict[str, JsonValue]
    seed: int
    request: RequestRecord
    found: dict[str, JsonValue]
    versions: dict[str, str]
    parent_sha256: Sha256
    files: dict[Literal["model.safetensors", "gates.safetensors"], FileRecord]
    forgotten_before: tuple[int, ...] = ()
    instances_before: tuple[int, ...] = ()
    split_seed: int | None = None
    stand_in: str | None = None
    parent_tensors: dict[str, Sha256] | None = None


def params_of(method: Method) -> dict[str, JsonValue]:
    """Return the settings of `method` as they stand in a manifest, without its seed."""
    params: dict[str, JsonValue] = json.loads(canonical_json(asdict(method)))  # type: ignore[call-overload]  # a Method is a dataclass, which a Protocol cannot say
    del params["seed"]
    return params


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return `manifest` as it is stored, the same bytes every time."""
    return canonical_json(manifest.model_dump(mode="json"))


def artifact_sha256(manifest: Manifest) -> str:
    """Return the digest that releases and evidence know the artifact of `manifest` by."""
    return sha256(manifest_bytes(manifest))


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the artifact folder `path`, after checking which files are there.

    Raises:
        InputError: nothing is there.
        ArtifactError: no artifact, an unlisted or missing file, or a manifest of another shape.
    """
    file = path / MANIFEST
    if not os.path.lexists(path):
        raise InputError(f"{path}: no such folder; give the one that bandstop unlearn wrote")
    if not file.is_file() or file.is_symlink():
        raise ArtifactError(f"{path}: not an artifact, expected a folder with a {MANIFEST}")
    if file.stat().st_size > _MANIFEST_LIMIT:
        raise ArtifactError(f"{file}: larger than {_MANIFEST_LIMIT} bytes")
    content = file.read_bytes()
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ArtifactError(f"{file}: not a valid manifest: {misfits(error)}") from error
    if twice := tensors.named_twice(content):
        raise ArtifactError(f"{file}: not a valid manifest: names {', '.join(twice)} twice")
    wanted = {MODEL} | ({GATES} if manifest.kind == "gates" else set())
    if set(manifest.files) != wanted:
        raise ArtifactError(f"{file}: lists {sorted(manifest.files)}, expected {sorted(wanted)}")
    there = {entry.name for entry in path.iterdir()}
    wrong = [f"missing {name}" for name in sorted(wanted - there)]
    wrong += [f"unlisted file {name}" for name in sorted(there - wanted - {MANIFEST})]
    if wrong:
        raise ArtifactError(f"{path}: {', '.join(wrong)}")
    return manifest
