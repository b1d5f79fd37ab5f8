"""Write BatchNorm statistics into the layers before them.

Masks and edits are made on the folded network: while the statistics stand in the network, 256
unlabelled images are enough to bring a masked class back.
"""

import copy
from collections import Counter
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d  # timm's BatchNormAct2d is a BatchNorm2d
_TOLERANCE = 1e-3  # relative; float32 rounding over some 50 layers stays below 1e-5


class ChannelAffine(nn.Module):
    """`x * scale + shift` per channel: a BatchNorm in evaluation with no layer to fold it into."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        """Keep `scale` and `shift`, both (channels,), as constants."""
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (n, channels, ...) scaled and shifted."""
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)


class ChannelShift(nn.Module):
    """`x + shift` per channel: what is left of a BatchNorm whose scale alone was folded."""

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        """Keep `shift` (channels,) as a constant."""
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (n, channels, ...) shifted."""
        return x + self.shift.reshape(-1, *[1] * (x.ndim - 2))


def fold_batchnorm(
    model: Classifier, *, shift: Literal["inside", "apart"] = "inside"
) -> Classifier:
    """Return a copy of `model` without BatchNorm that computes the same logits.

    A BatchNorm that alone reads the output of a convolution or linear layer goes into that layer's
    weight and bias; any other becomes a constant scale and shift.

    Args:
        model: in evaluation.
        shift: "apart" leaves the BatchNorm's shift behind the layer as a constant, out of reach of
            masks; so a mask before a BatchNorm with frozen statistics is one on the folded layer.

    Raises:
        InputError: the folded network computes something else, so its wiring is not understood.
    """
    network = copy.deepcopy(model.network).eval()
    layer_of = _layer_before(network, example(model))
    modules = dict(network.named_modules())
    for name, norm in modules.items():
        if not isinstance(norm, BatchNorm):
            continue
        scale, constant = _scale_and_shift(norm)
        layer = modules.get(layer_of.get(name, ""))
        left: nn.Module = ChannelAffine(scale.float(), constant.float())
        if isinstance(layer, nn.Conv2d | nn.Linear):
            _fold_into_(layer, scale, constant if shift == "inside" else None)
            left = nn.Identity() if shift == "inside" else ChannelShift(constant.float())
        _replace_(network, name, _after(norm, left))
    folded = model.replaced(network, bn_folded=True if shift == "inside" else "apart")
    _check_same_logits(model, folded)
    return folded


def example(model: Classifier, count: int = 1) -> Tensor:
    """Return `count` images (count, c, h, w) of seeded noise in [0, 1] that `model` accepts."""
    shape = (count, model.preprocess.channels, *model.preprocess.size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(model.mean)


def adapt_(network: nn.Module) -> None:
    """Let every BatchNorm use the statistics of the batch and remember them, as in training."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.train()


def freeze_(network: nn.Module) -> None:
    """Let every BatchNorm use the statistics that it remembers, as in evaluation."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.eval()


def statistics_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of what every BatchNorm remembers: buffer name -> value."""
    return {
        f"{name}.{kind}": value.clone()
        for name, module in network.named_modules()
        if isinstance(module, BatchNorm)
        for kind, value in module.named_buffers(recurse=False)
    }


def _scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise InputError("a BatchNorm without running statistics cannot be folded; train with them")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift


def _layer_before(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Return BatchNorm name -> name of the layer whose output it reads, each called once."""
    # output -> its layer and version; keeps outputs alive, so that no id is used twice
    made: dict[int, tuple[str, Tensor, int]] = {}
    pairs: dict[str, str] = {}
    calls: Counter[str] = Counter()

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):

                def made_by(_m: nn.Module, _x: object, y: Tensor, name: str = name) -> None:
                    made[id(y)] = (name, y, y._version)
                    calls[name] += 1

                hooks.callback(module.register_forward_hook(made_by).remove)
            elif isinstance(module, BatchNorm):

                def read_by(_m: nn.Module, x: tuple[Tensor, ...], name: str = name) -> None:
                    calls[name] += 1
                    layer, _, written = made.get(id(x[0]), ("", None, -1))
                    if written == x[0]._version:  # else changed in place in between
                        pairs[name] = layer

                hooks.callback(module.register_forward_pre_hook(read_by).remove)
        network(image)
    readers = Counter(pairs.values())
    return {
        norm: layer
        for norm, layer in pairs.items()
        if calls[norm] == 1 and calls[layer] == 1 and readers[layer] == 1
    }


def _fold_into_(layer: nn.Conv2d | nn.Linear, scale: Tensor, shift: Tensor | None) -> None:
    weight = layer.weight.detach().double()
    dtype = layer.weight.dtype
    folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    layer.weight = nn.Parameter(folded.to(dtype))
    if layer.bias is None and shift is None:
        return
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    layer.bias = nn.Parameter((bias * scale + (0.0 if shift is None else shift)).to(dtype))


def _after(norm: BatchNorm, instead: nn.Module) -> nn.Module:
    """Return `instead`, followed by the activation that timm's BatchNormAct2d carries, if any."""
    act = getattr(norm, "act", None)
    return nn.Sequential(instead, act) if isinstance(act, nn.Module) else instead


def _replace_(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _check_same_logits(model: Classifier, folded: Classifier) -> None:
    image = example(model, 2)
    with torch.no_grad():
        before, after = model(image), folded(image)
    gap = float((before - after).abs().max() / before.abs().max().clamp_min(1e-6))
    if not gap <= _TOLERANCE:
        raise InputError(
            f"folding BatchNorm changed the logits of {model.arch.name} by {gap:.1e} relative, "
            f"expected <= {_TOLERANCE:.0e}; a layer's output is read in more than one place"
        )
