"""A network with what is needed to use it: its recipe, its preprocessing, its class names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from bandstop.edit.images import Preprocess

ArchArg = int | float | str | bool | None
Folded = bool | Literal["apart"]  # see `fold_batchnorm`


@dataclass(frozen=True, slots=True)
class Arch:
    """How a network is built: `bandstop:resnet`, `timm:NAME`, `torchvision:NAME`, `module:func`."""

    name: str
    args: Mapping[str, ArchArg] = field(default_factory=dict)


class Classifier(nn.Module):
    """`network` on normalised images; the unit that is edited, saved, exported.

    Edits name the parameters of `network` (no `network.` in front).

    Attributes:
        network: maps normalised images (n, c, h, w) to logits (n, num_classes).
        arch: rebuilds `network` without its weights.
        bn_folded: whether every foldable BatchNorm is already written into the layer before it;
            "apart" where its shift stands behind that layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        arch: Arch,
        preprocess: Preprocess,
        class_names: tuple[str, ...],
        *,
        bn_folded: Folded = False,
    ) -> None:
        """Wrap `network`, which is put into evaluation mode and kept by reference."""
        super().__init__()
        self.network = network
        self.arch = arch
        self.preprocess = preprocess
        self.class_names = class_names
        self.bn_folded = bn_folded
        shape = (-1, 1, 1)
        self.register_buffer("mean", torch.tensor(preprocess.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).reshape(shape), persistent=False)
        self.eval()

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return len(self.class_names)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n, num_classes) of images (n, c, h, w) in [0, 1]."""
        logits: Tensor = self.network((image - self.mean) / self.std)
        return logits

    def replaced(self, network: nn.Module, *, bn_folded: Folded | None = None) -> "Classifier":
        """Return a classifier with another network and everything else the same."""
        folded = self.bn_folded if bn_folded is None else bn_folded
        other = Classifier(network, self.arch, self.preprocess, self.class_names, bn_folded=folded)
        return other.to(self.mean)
