"""Networks whose layers are scaled by masks chosen sample by sample (WF-Net, algorithm 1)."""

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

GATED_TYPES = (nn.Conv2d,)


class GatedConv2d(nn.Module):
    """A frozen convolution under masks: `m_w * (W x) + m_b * b`, per sample and output channel.

    The masks commute with the convolution, so no weight is copied per sample.
    """

    def __init__(self, layer: nn.Conv2d, name: str, selected: Mapping[str, Tensor]) -> None:
        """Wrap `layer`; `selected` holds this batch's masks by parameter name."""
        super().__init__()
        self.layer = layer
        self.name = name
        self.selected = selected

    def forward(self, x: Tensor) -> Tensor:
        """Return the masked output (n, out, h, w)."""
        conv = self.layer
        y: Tensor = conv._conv_forward(x, conv.weight, None)
        y = y * self.selected[f"{self.name}.weight"][:, :, None, None]
        if conv.bias is not None:
            y = y + (self.selected[f"{self.name}.bias"] * conv.bias)[:, :, None, None]
        return y


class Gated(nn.Module):
    """A frozen copy of a network, called with a mask a sample for each gated parameter."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        """Copy `network` and gate the parameters `names` (see `gateable`)."""
        super().__init__()
        self.selected: dict[str, Tensor] = {}  # filled for the length of one forward
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        for name in dict.fromkeys(n.rpartition(".")[0] for n in names):
            layer = self.network.get_submodule(name)
            if not isinstance(layer, nn.Conv2d):
                raise TypeError(f"{name} is a {type(layer).__name__}, which cannot be gated")
            parent, _, child = name.rpartition(".")
            gated = GatedConv2d(layer, name, self.selected)
            setattr(self.network.get_submodule(parent), child, gated)

    def forward(self, image: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """Return logits (n, num_classes).

        Args:
            image: normalised images (n, c, h, w).
            masks: parameter name -> (n, out_channels), the row of each sample.
        """
        self.selected.update(masks)
        try:
            logits: Tensor = self.network(image)
            return logits
        finally:
            self.selected.clear()


def gateable(network: nn.Module) -> dict[str, int]:
    """Return parameter name -> output channels of what WF-Net masks: every kernel and bias."""
    return {
        f"{name}.{kind}": parameter.shape[0]
        for name, module in network.named_modules()
        if isinstance(module, GATED_TYPES)
        for kind, parameter in module.named_parameters(recurse=False)
    }


def rows(masks: Mapping[str, Tensor], classes: Tensor) -> dict[str, Tensor]:
    """Return for each parameter the mask rows (n, out_channels) of `classes` (n,)."""
    # F.embedding exports as a plain Gather; indexing would export as GatherND
    return {name: F.embedding(classes, table) for name, table in masks.items()}
