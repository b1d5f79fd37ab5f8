"""Networks by name: ours for small images, torchvision's, timm's, or the user's own."""

import importlib
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import nn

from bandstop.edit.classifier import Arch, ArchArg
from bandstop.edit.errors import InputError
from bandstop.edit.network_resnet import ResNet
from bandstop.edit.network_vgg import LAYOUTS, VGG
from bandstop.edit.network_vit import ViT

# what each of our networks can be asked for, with its default
ARGS: Mapping[str, Mapping[str, int | str]] = {
    "resnet": {"width": 16, "blocks": "2-2-2-2"},
    "vgg": {"width": 16, "layout": next(iter(LAYOUTS))},
    "vit": {"patch": 4, "dim": 96, "depth": 6, "heads": 3},
}


def build(
    arch: Arch,
    num_classes: int,
    channels: int,
    size: tuple[int, int],
    *,
    seed: int = 0,
    trust_factory: bool = False,
) -> nn.Module:
    """Return a network with weights drawn from `seed`; nothing is downloaded.

    Args:
        arch: `bandstop:resnet|vgg|vit`, `torchvision:NAME`, `timm:NAME` or `module.path:function`.
        num_classes: the number of logits.
        channels: of the images.
        size: height and width of the images.
        seed: of the weights.
        trust_factory: whether the user's own module may be imported; its function is called with
            `num_classes` alone.

    Raises:
        InputError: no such network, or arguments that it does not take.
    """
    source, _, name = arch.name.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if source == "bandstop":
            return _ours(name, arch.args, num_classes, channels, size)
        if arch.args:
            raise InputError(f"{arch.name} takes no arguments, got {dict(arch.args)}")
        if source == "torchvision":
            return _torchvision(name, num_classes)
        if source == "timm":
            return _timm(name, num_classes, channels)
        return _own(arch.name, num_classes, trust=trust_factory)


def parse_arch(name: str, args: Mapping[str, str] | None = None) -> Arch:
    """Return the arch that `resnet` or `bandstop:resnet` with texts as arguments means."""
    full = name if ":" in name else f"bandstop:{name}"
    values: dict[str, ArchArg] = {
        key: int(text) if text.isascii() and text.isdigit() else text
        for key, text in (args or {}).items()
    }
    return Arch(full, values)


def _ours(
    name: str,
    args: Mapping[str, ArchArg],
    num_classes: int,
    channels: int,
    size: tuple[int, int],
) -> nn.Module:
    if name not in ARGS:
        raise InputError(f"no network bandstop:{name}; expected one of {', '.join(ARGS)}")
    chosen = {**ARGS[name], **args}
    misfits = [
        f"{key}={value!r}"
        for key, value in chosen.items()
        if key not in ARGS[name]
        or type(value) is not type(ARGS[name][key])
        or (isinstance(value, int) and not 1 <= value <= 4096)
    ]
    if misfits:
        raise InputError(f"bandstop:{name} takes {dict(ARGS[name])}, got {', '.join(misfits)}")
    try:
        if name == "resnet":
            blocks = [int(n) for n in str(chosen["blocks"]).split("-")]
            return ResNet(
                width=int(cast(int, chosen["width"])),
                blocks=blocks,
                in_channels=channels,
                num_classes=num_classes,
            )
        if name == "vgg":
            return VGG(
                width=int(cast(int, chosen["width"])),
                layout=str(chosen["layout"]),
                in_channels=channels,
                num_classes=num_classes,
            )
        patch, dim, depth, heads = (int(cast(int, chosen[key])) for key in ARGS["vit"])
        return ViT(
            patch=patch,
            dim=dim,
            depth=depth,
            heads=heads,
            image_size=size,
            in_channels=channels,
            num_classes=num_classes,
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"bandstop:{name} with {chosen}: {error}") from error


def _torchvision(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    try:
        return cast(nn.Module, models.get_model(name, weights=None, num_classes=num_classes))
    except ValueError as error:
        raise InputError(f"torchvision has no model {name!r}") from error


def _timm(name: str, num_classes: int, channels: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}")
    return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=channels)


def _own(name: str, num_classes: int, *, trust: bool) -> nn.Module:
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(
            f"no network {name!r}; expected a checkpoint file, bandstop:NAME, torchvision:NAME, "
            "timm:NAME or module.path:function"
        )
    if not trust:
        raise InputError(f"{name} would run code of {module}; allow it with --trust-factory")
    try:
        factory = cast(Callable[..., object], getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name} cannot be imported: {error}") from error
    network = factory(num_classes=num_classes)
    if not isinstance(network, nn.Module):
        raise InputError(f"{name} returned a {type(network).__name__}, expected an nn.Module")
    return network
