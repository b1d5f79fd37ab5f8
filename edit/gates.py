"""Networks whose layers are scaled by masks chosen sample by sample (WF-Net, algorithm 1).

What is masked: in a Transformer the linear maps that make queries, keys and values, else every
convolution. Masks commute with these layers, so no weight is copied per sample.
"""

import copy
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.attention import SelfAttention
from bandstop.edit.patterns import check_patterns, matches

_QKV = (("q", "k", "v"), ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"))


class Gate:
    """The masks that act on the output of one layer: `m_w * (W x) + m_b * b`.

    A tied gate has one mask for both, `m_w * (W x + b)`: the layer keeps its bias, and a runtime
    can fuse the two.
    """

    def __init__(
        self, weight: str, names: Collection[str], selected: Mapping[str, Tensor], *, tied: bool
    ) -> None:
        """Gate the parameter `weight`, and its bias when `names` has it.

        `selected` holds this batch's masks by parameter name.
        """
        self.weight = weight
        self.bias = bias_of(weight) if bias_of(weight) in names else None
        self.selected = selected
        self.tied = tied

    def __call__(self, y: Tensor, bias: Tensor | None, axis: int) -> Tensor:
        """Return the masked `y`, whose channels are on `axis`, with what `bias` gives added."""
        y = y * _along(self.selected[self.weight], y, axis)
        if bias is None:
            return y
        mine = bias[None] if self.bias is None else self.selected[self.bias] * bias
        return y + _along(mine, y, axis)


class GatedLayer(nn.Module):
    """A frozen convolution or linear layer under a gate."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, gate: Gate) -> None:
        """Take over `layer`, and its bias unless the gate is tied."""
        super().__init__()
        self.layer = layer
        self.gate = gate
        self.axis = 1 if isinstance(layer, nn.Conv2d) else -1
        self.bias = None if gate.tied else layer.bias
        if not gate.tied:
            layer.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the masked output of the layer."""
        return self.gate(self.layer(x), self.bias, self.axis)


class Gated(nn.Module):
    """A frozen copy of a network, called with a mask a sample for each gated parameter."""

    def __init__(self, network: nn.Module, names: Sequence[str], *, tied: bool = False) -> None:
        """Copy `network` and gate the parameters `names` (see `gateable`).

        When `tied`, the mask of a weight is also that of its bias, which needs none of its own.
        """
        super().__init__()
        self.selected: dict[str, Tensor] = {}  # filled for the length of one forward
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        weights = [name for name in names if name.endswith("weight")]
        for weight in weights:
            _install_(self.network, Gate(weight, names, self.selected, tied=tied))
        alone = set(names) - set(weights) - set(map(bias_of, weights))
        if alone:
            raise TypeError(f"a bias is gated with its weight only, got {', '.join(sorted(alone))}")

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


def gateable(network: nn.Module, layers: Sequence[str] = ("*",)) -> dict[str, int]:
    """Return parameter name -> output channels of what WF-Net masks, weights and biases.

    Args:
        network: with attention only its queries, keys and values, else every convolution.
        layers: shell patterns; the layers whose names match one are taken.

    Raises:
        InputError: a pattern matches no layer.
    """
    found = _query_key_value(network) or {
        f"{name}.{kind}": len(parameter)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        for kind, parameter in module.named_parameters(recurse=False)
    }
    if found:
        check_patterns("wf-net", layers, list(dict.fromkeys(map(layer_of, found))))
    return {name: channels for name, channels in found.items() if matches(layer_of(name), layers)}


def layer_of(name: str) -> str:
    """Return the layer that the parameter `name` belongs to."""
    return name.rpartition(".")[0]


def bias_of(weight: str) -> str:
    """Return the name of the bias beside `weight`, whether or not the layer has one."""
    return weight.removesuffix("weight") + "bias"


def rows(masks: Mapping[str, Tensor], classes: Tensor) -> dict[str, Tensor]:
    """Return for each parameter the mask rows (n, out_channels) of `classes`.

    Args:
        masks: parameter name -> (num_classes, out_channels).
        classes: (n,), or sets (n, k), of which the minimum over the rows is taken.
    """
    # F.embedding exports as a plain Gather; indexing would export as GatherND
    read = {name: F.embedding(classes, table) for name, table in masks.items()}
    if classes.ndim == 1:
        return read
    one = classes.shape[1] == 1
    return {name: row.squeeze(1) if one else row.amin(dim=1) for name, row in read.items()}


def _along(mask: Tensor, y: Tensor, axis: int) -> Tensor:
    """Return `mask` (n, channels) in a shape to be multiplied with `y`, channels on `axis`."""
    if axis == 1:
        return mask.unsqueeze(2).unsqueeze(3)
    return mask[:, None, :] if y.ndim == 3 else mask


def _install_(network: nn.Module, gate: Gate) -> None:
    name = layer_of(gate.weight)
    layer = network.get_submodule(name)
    if isinstance(layer, SelfAttention):

        def project(x: Tensor) -> Tensor:
            weight, bias = layer.in_proj_weight, layer.in_proj_bias
            if gate.tied:
                return gate(F.linear(x, weight, bias), None, -1)
            return gate(F.linear(x, weight), bias, -1)

        setattr(layer, "project", project)  # noqa: B010  # mypy forbids to assign to a method
        return
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise TypeError(f"{name} is a {type(layer).__name__}, which cannot be gated")
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, GatedLayer(layer, gate))


def _query_key_value(network: nn.Module) -> dict[str, int]:
    """Return the parameters, with output channels, that make queries, keys and values."""
    found: dict[str, int] = {}
    for name, module in network.named_modules():
        dot = f"{name}." if name else ""
        linear = {n: m for n, m in module.named_children() if isinstance(m, nn.Linear)}
        makers = [trio for trio in (("qkv",), *_QKV) if all(part in linear for part in trio)]
        found |= {
            f"{dot}{part}.{kind}": len(parameter)
            for trio in makers
            for part in trio
            for kind, parameter in linear[part].named_parameters()
        }
        if isinstance(module, SelfAttention):
            found |= {
                f"{dot}{kind}": len(parameter)
                for kind, parameter in module.named_parameters(recurse=False)
            }
    return found
