"""The network that a file describes, built only if the file can hold its weights."""

import torch
from torch import nn

from bandstop.edit.arch import build
from bandstop.edit.classifier import Arch
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.images import Preprocess

_SPARE = 256 << 20  # bytes; below, names and shapes tell better what does not fit


def skeleton(
    arch: Arch, num_classes: int, prep: Preprocess, stored: int, *, trust_factory: bool = False
) -> nn.Module:
    """Return the network `arch` with arbitrary weights.

    Args:
        arch: see `build`.
        num_classes: the number of logits.
        prep: of its images.
        stored: bytes of the file with its weights; a kilobyte that describes a network of a
            terabyte is not believed.
        trust_factory: see `build`.

    Raises:
        InputError: see `build`.
        ArtifactError: the network is far larger than the file.
    """
    needed = _bytes_needed(arch, num_classes, prep)
    if needed > stored + _SPARE:
        raise ArtifactError(
            f"{arch.name} with {num_classes} classes needs {needed} bytes of weights, but the file "
            f"has {stored}; it is of another network"
        )
    return build(arch, num_classes, prep.channels, prep.size, trust_factory=trust_factory)


def _bytes_needed(arch: Arch, num_classes: int, prep: Preprocess) -> int:
    """Return the size of the network's weights without allocating them; 0 where that is unknown."""
    if arch.name.partition(":")[0] not in ("bandstop", "torchvision", "timm"):
        return 0  # the user's own code, which runs once only and when trusted
    try:
        with torch.device("meta"):
            network = build(arch, num_classes, prep.channels, prep.size)
    except (InputError, RuntimeError):
        return 0  # told when it is built; some networks look at numbers, which are not there
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())
