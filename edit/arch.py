"""Networks by name: ours for small images, torchvision's, timm's, or the user's own."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from torch import nn

from bandstop.edit.attention import explicit_attention_
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
_LARGEST = 4096  # of every number
_MOST_STAGES = 5
_COUNTS = tuple(str(n) for n in range(1, 65))  # blocks of a stage


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
            network = _torchvision(name, num_classes, channels)
        elif source == "timm":
            network = _timm(name, num_classes, channels, size)
        else:
            network = _own(arch.name, num_classes, trust=trust_factory)
    return explicit_attention_(network)


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
    chosen = _chosen(name, args)
    if name == "resnet":
        return ResNet(
            width=int(chosen["width"]),
            blocks=_blocks(str(chosen["blocks"])),
            in_channels=channels,
            num_classes=num_classes,
        )
    if name == "vgg":
        layout = str(chosen["layout"])
        if layout not in LAYOUTS:
            raise InputError(f"bandstop:vgg has layouts {', '.join(LAYOUTS)}, got {layout!r}")
        return VGG(
            width=int(chosen["width"]),
            layout=layout,
            in_channels=channels,
            num_classes=num_classes,
        )
    patch, dim, depth, heads = (int(chosen[key]) for key in ARGS["vit"])
    if size[0] % patch or size[1] % patch or dim % heads:
        raise InputError(
            f"bandstop:vit needs a patch that divides {size[0]}x{size[1]} and heads that divide "
            f"dim, got patch={patch} heads={heads} dim={dim}"
        )
    return ViT(
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads,
        image_size=size,
        in_channels=channels,
        num_classes=num_classes,
    )


def _chosen(name: str, args: Mapping[str, ArchArg]) -> dict[str, int | str]:
    """Return the arguments of our network `name`, with its defaults where `args` has none."""
    if name not in ARGS:
        raise InputError(f"no network bandstop:{name}; expected one of {', '.join(ARGS)}")
    known = ARGS[name]
    misfits = [f"{key}={value!r}" for key, value in args.items() if not _fits(known, key, value)]
    if misfits:
        raise InputError(f"bandstop:{name} takes {dict(known)}, got {', '.join(misfits)}")
    return {**known, **{key: v for key, v in args.items() if isinstance(v, int | str)}}


def _fits(known: Mapping[str, int | str], key: str, value: ArchArg) -> bool:
    if key not in known or type(value) is not type(known[key]):
        return False
    return not isinstance(value, int) or 1 <= value <= _LARGEST


def _blocks(text: str) -> list[int]:
    """Return the blocks of each stage that `2-2-2-2` means."""
    parts = text.split("-")
    # a checkpoint is not believed to the point of running out of memory
    if len(parts) > _MOST_STAGES or not all(p in _COUNTS for p in parts):
        raise InputError(
            f"bandstop:resnet: blocks are 1 to {_MOST_STAGES} numbers 1..{len(_COUNTS)} "
            f"like 2-2-2-2, got {text!r}"
        )
    return [int(p) for p in parts]


def _torchvision(name: str, num_classes: int, channels: int) -> nn.Module:
    from torchvision import models

    # only these are classifiers; building one of the others downloads a backbone
    if name not in models.list_models(module=models):
        raise InputError(f"torchvision has no classifier {name!r}")
    if channels != 3:
        raise InputError(f"torchvision:{name} takes images of 3 channels, got {channels}")
    return cast(nn.Module, models.get_model(name, weights=None, num_classes=num_classes))


def _timm(name: str, num_classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise InputError(f"timm has no model {name!r}")
    make = partial(
        timm.create_model, name, pretrained=False, num_classes=num_classes, in_chans=channels
    )
    fitted = not config.fixed_input_size or size == config.input_size[1:]
    try:
        return make() if fitted else make(img_size=size)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"timm:{name} cannot be built for {channels}x{size[0]}x{size[1]} images: {reason}"
        ) from error


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
