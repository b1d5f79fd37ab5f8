"""A classifier from what the user names: a checkpoint, or an architecture and its weights."""

import pickle
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from bandstop.edit.arch import build
from bandstop.edit.artifact import load_artifact
from bandstop.edit.checkpoint import load_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.images import DataSplits
from bandstop.edit.origin import is_artifact, is_checkpoint
from bandstop.edit.tensors import check, check_header

_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # PyTorch's magic number
_WRAPPERS = ("state_dict", "model", "model_state_dict")


def load_model(
    model: str, data: DataSplits, *, checkpoint: Path | None = None, trust_factory: bool = False
) -> Classifier:
    """Return the classifier that `model` names.

    Args:
        model: a checkpoint of `bandstop train`, the artifact folder of an earlier edit of weights,
            or torchvision:NAME, timm:NAME, module:function.
        data: gives an architecture its class names and preprocessing; a checkpoint has its own.
        checkpoint: the weights of an architecture, safetensors or weights-only PyTorch.
        trust_factory: see `build`.

    Raises:
        InputError: no such file or network, or weights are missing.
        ArtifactError: the file is corrupt or holds another network.
    """
    itself = "an artifact" if is_artifact(model) else "a checkpoint"
    if checkpoint is not None and (is_artifact(model) or is_checkpoint(model)):
        raise InputError(f"{model} is {itself} itself, so leave --checkpoint out")
    if is_artifact(model):
        artifact = load_artifact(Path(model), trust_factory=trust_factory)
        if artifact.gates is not None:
            raise InputError(f"{model} holds masks, which cannot be edited further; edit its base")
        return artifact.model
    if is_checkpoint(model):
        return load_checkpoint(Path(model), trust_factory=trust_factory)
    if checkpoint is None:
        raise InputError(f"{model} needs its weights: say --checkpoint FILE")
    arch, prep = Arch(model), data.preprocess
    network = build(
        arch, len(data.class_names), prep.channels, prep.size, trust_factory=trust_factory
    )
    state = read_weights(checkpoint)
    check(state, network.state_dict(), str(checkpoint))
    network.load_state_dict(state)
    return Classifier(network, arch, prep, data.class_names)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a safetensors file or a PyTorch file; nothing in it is executed.

    A file of PyTorch before 1.6 has no checksum: damaged numbers in it are not seen.

    Raises:
        InputError: no such file.
        ArtifactError: neither format, corrupt, or holding anything but tensors.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    try:
        if zipfile.is_zipfile(path):
            content = _read_zip(path)
        elif _is_legacy(path):
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            data = path.read_bytes()
            check_header(data, str(path))
            content = safetensors.torch.load(data)
    except ArtifactError:
        raise
    except Exception as error:  # each format has its own errors, pickle's among them
        reason = str(error).split("\n", maxsplit=1)[0][:160]
        raise ArtifactError(
            f"{path}: not a safetensors file nor PyTorch weights that load safely ({reason})"
        ) from error
    return _plain(content, path)


def _is_legacy(path: Path) -> bool:
    """Return whether the file is as PyTorch wrote it before version 1.6."""
    with path.open("rb") as file:
        return file.read(len(_LEGACY)) == _LEGACY


def _read_zip(path: Path) -> object:
    """Return what PyTorch reads from its zip file, after the checks that it does not make."""
    with zipfile.ZipFile(path) as archive:
        # PyTorch packs nothing, and a small packed file may unpack to more than the memory
        packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
        counts = Counter(archive.namelist())  # readers differ in which of two they take
        twice = [name for name, times in counts.items() if times > 1]
        damaged = packed[0] if packed else archive.testzip()
    if twice:
        raise ArtifactError(f"{path}: holds {twice[0]} twice; fetch it again")
    if damaged:
        raise ArtifactError(f"{path}: {damaged} inside is corrupt; fetch it again")
    return torch.load(path, map_location="cpu", weights_only=True)


def _plain(content: object, path: Path) -> dict[str, Tensor]:
    """Return the state dict in `content`, out of its wrappers and with the network's own names."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ArtifactError(f"{path}: expected a mapping of names to tensors")
    hollow = [str(name) for name, value in content.items() if not _filled(value)]
    if hollow:
        raise ArtifactError(f"{path}: {hollow[0]:.80} holds fewer numbers than its shape says")
    names = list(map(str, content))
    # DataParallel puts this in front of all
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    return {n.removeprefix(prefix): v for n, v in zip(names, content.values(), strict=True)}


def _filled(value: Tensor) -> bool:
    """Return whether `value` has a number of its own in every place; a kilobyte can claim 12 GB."""
    if value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
