"""What an unlearning run leaves behind: a folder with weights, a manifest, and digests of both.

manifest.json       what was asked, what was done, of what; digests of the other files
model.safetensors   the edited weights; for gates the frozen backbone
gates.safetensors   the masks, for gates only
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bandstop.edit import tensors
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import Edit, GateEdit, fold
from bandstop.edit.errors import ArtifactError
from bandstop.edit.manifest import (
    FORMAT,
    GATES,
    MANIFEST,
    MODEL,
    FileRecord,
    Manifest,
    manifest_bytes,
    params_of,
    read_manifest,
)
from bandstop.edit.method import Method
from bandstop.edit.parent import parent_tensors
from bandstop.edit.records import description
from bandstop.edit.request import ForgetRequest
from bandstop.edit.skeleton import skeleton
from bandstop.edit.storage import (
    canonical_json,
    library_versions,
    sha256,
    state_sha256,
    write_folder,
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A loaded artifact.

    Attributes:
        manifest: what was asked and done.
        model: the edited network; for gates the frozen backbone.
        gates: the masks, for kind "gates".
    """

    manifest: Manifest
    model: Classifier
    gates: GateEdit | None


def save_artifact(
    out: Path,
    model: Classifier,
    edit: Edit,
    *,
    method: Method,
    request: ForgetRequest,
    parent: Classifier,
    forgotten_before: Sequence[int] = (),
    instances_before: Sequence[int] = (),
    split_seed: int | None = None,
    stand_in: str | None = None,
) -> Manifest:
    """Write the artifact folder `out`, which appears complete or not at all.

    Args:
        out: must not exist.
        model: the network that `edit` was made for (BatchNorm folded).
        edit: what `method` returned.
        method: its fields are recorded.
        request: what was asked.
        parent: the network that the user gave; only a digest of its weights is kept.
        forgotten_before: the classes that `parent` has forgotten already.
        instances_before: the training images that it has forgotten already.
        split_seed: of the data that `parent` was trained on.
        stand_in: what stood in for its training images.
    """
    state = model.network.state_dict()
    after = state if isinstance(edit, GateEdit) else fold(state, edit)
    files = {MODEL: tensors.dump(after)}
    if isinstance(edit, GateEdit):
        files[GATES] = tensors.dump(edit.masks)
    manifest = Manifest.model_validate_json(
        canonical_json(
            {
                "format": FORMAT,
                "kind": "gates" if isinstance(edit, GateEdit) else "weights",
                **description(model),
                "bn_folded": model.bn_folded,
                "method": method.name,
                "params": params_of(method),
                "seed": method.seed,
                "request": asdict(request),
                "found": edit.found,
                "versions": library_versions(),
                "parent_sha256": state_sha256(parent.network.state_dict()),
                "files": {
                    name: {"size": len(data), "sha256": sha256(data)}
                    for name, data in files.items()
                },
                "forgotten_before": list(forgotten_before),
                "instances_before": list(instances_before),
                "split_seed": split_seed,
                "stand_in": stand_in,
                "parent_tensors": None
                if isinstance(edit, GateEdit)
                else parent_tensors(state, after),
            }
        )
    )
    write_folder(out, {**files, MANIFEST: manifest_bytes(manifest)})
    return manifest


def load_artifact(path: Path, *, trust_factory: bool = False) -> Artifact:
    """Return the artifact in the folder `path`; digests and schema are checked before parsing.

    Args:
        path: a folder written by `save_artifact`.
        trust_factory: whether a network built by the user's own function may be imported.

    Raises:
        InputError: nothing is there.
        ArtifactError: something is missing, extra, corrupt or does not fit.
    """
    manifest = read_manifest(path)
    files = {name: _checked(path / name, record) for name, record in manifest.files.items()}
    model = _classifier(manifest, len(files["model.safetensors"]), trust_factory=trust_factory)
    state = tensors.load(files["model.safetensors"], model.network.state_dict(), f"{path}/{MODEL}")
    model.network.load_state_dict(state)
    if manifest.kind == "weights":
        return Artifact(manifest, model, None)
    masks = _load_masks(files["gates.safetensors"], state, len(manifest.class_names), path)
    return Artifact(manifest, model, GateEdit(masks, manifest.found))


def _checked(file: Path, record: FileRecord) -> bytes:
    if file.is_symlink() or not file.is_file():
        raise ArtifactError(f"{file}: not a regular file")
    if file.stat().st_size != record.size:
        raise ArtifactError(
            f"{file}: {file.stat().st_size} bytes, expected {record.size}; the file is corrupt"
        )
    data = file.read_bytes()
    if sha256(data) != record.sha256:
        raise ArtifactError(
            f"{file}: digest {sha256(data)[:12]}..., expected {record.sha256[:12]}...; "
            "the file is corrupt"
        )
    return data


def _classifier(manifest: Manifest, stored: int, *, trust_factory: bool) -> Classifier:
    """Return the classifier that the manifest describes, with arbitrary weights."""
    prep, arch = manifest.preprocess.preprocess(), manifest.arch.arch()
    count = len(manifest.class_names)
    network = skeleton(arch, count, prep, stored, trust_factory=trust_factory)
    model = Classifier(network, arch, prep, tuple(manifest.class_names))
    if not manifest.bn_folded:
        return model
    return fold_batchnorm(model, shift="apart" if manifest.bn_folded == "apart" else "inside")


def _load_masks(
    data: bytes, state: dict[str, Tensor], num_classes: int, path: Path
) -> dict[str, Tensor]:
    tensors.check_header(data, f"{path}/{GATES}")
    header = tensors.names(data)
    unknown = [name for name in header if name not in state or not state[name].ndim]
    if unknown:
        raise ArtifactError(f"{path}/{GATES}: masks for unknown parameters {unknown[:8]}")
    shapes = {name: (num_classes, len(state[name])) for name in header}
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    masks = tensors.load(data, expected, f"{path}/{GATES}")
    outside = [n for n, m in masks.items() if bool(((m < 0) | (m > 1)).any())]
    if outside or not masks:
        raise ArtifactError(f"{path}/{GATES}: masks must lie in [0, 1], got others in {outside}")
    return masks
