"""What is measured on: a ResNet-18 of random weights, smooth images, and its layers one by one."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.images import ImageSet, Preprocess
from bandstop.edit.moments import Layer, editable_layers, weight_matrix

CLASSES = 10


@dataclass(frozen=True, slots=True)
class Activations:
    """A store of images that holds what a layer reads, (n, c, h, w) float32."""

    values: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.values)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """Return the inputs at `index`, times 255 because an image set divides by it."""
        return self.values[index] * 255


@dataclass(frozen=True, slots=True)
class Shape:
    """A layer that stands for all layers of its shape.

    Attributes:
        name: of the first such layer of the network.
        model: the layer alone, as a classifier whose images are what the layer reads; it reads all
            of them and answers for the first.
        retain: what it reads of the images to keep.
        forget: what it reads of the images to forget.
        d: columns of its weight matrix.
        out: rows of its weight matrix.
        count: how many layers of the network have this shape.
    """

    name: str
    model: Classifier
    retain: ImageSet
    forget: ImageSet
    d: int
    out: int
    count: int


def resnet18(width: int, size: int, seed: int, *, folded: bool = True) -> Classifier:
    """Return the ResNet-18 with a CIFAR stem for ten classes, BatchNorm written into the layers."""
    arch = Arch("bandstop:resnet", {"width": width, "blocks": "2-2-2-2"})
    preprocess = Preprocess((size, size), 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    network = build(arch, CLASSES, 3, (size, size), seed=seed)
    model = Classifier(network, arch, preprocess, tuple(str(c) for c in range(CLASSES)))
    return fold_batchnorm(model) if folded else model


def smooth_images(labels: Tensor, size: int, seed: int) -> ImageSet:
    """Return smooth uint8 images of `labels` (n,); those of one class share a part."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(CLASSES, 3, 4, 4, generator=generator)
    own = torch.randn(len(labels), 3, 8, 8, generator=generator)
    coarse = F.interpolate(shared[labels], size=(8, 8), mode="bilinear") + own
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
    pixels = (128 + 40 * smooth).clamp(0, 255).to(torch.uint8)
    return ImageSet(pixels, torch.arange(len(labels)), labels)


def retain_and_forget(retain: int, forget: int, size: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return `retain` images of classes 1 to 9 and `forget` images of class 0."""
    labels = torch.cat([torch.zeros(forget, dtype=torch.int64), 1 + torch.arange(retain) % 9])
    images = smooth_images(labels, size, seed)
    return images.without_classes([0]), images.of_classes([0])


def shapes(model: Classifier, retain: ImageSet, forget: ImageSet) -> list[Shape]:
    """Return one entry for each distinct layer shape of `model`, with what the layer reads."""
    layers = editable_layers(model.network)
    matrices = {name: weight_matrix(layer) for name, layer in layers.items()}
    sizes = {name: x.shape[1:] for name, x in _inputs(model, retain.take(_FIRST), layers).items()}
    groups: dict[object, list[str]] = {}
    for name, layer in layers.items():
        stride = layer.stride if isinstance(layer, nn.Conv2d) else None
        groups.setdefault((matrices[name].shape, stride, sizes[name]), []).append(name)
    first = {names[0]: layers[names[0]] for names in groups.values()}
    kept, gone = _inputs(model, retain, first), _inputs(model, forget, first)
    return [
        Shape(
            name=names[0],
            model=_alone(layers[names[0]]),
            retain=_as_images(kept[names[0]]),
            forget=_as_images(gone[names[0]]),
            d=matrices[names[0]].shape[-1],
            out=matrices[names[0]].shape[-2],
            count=len(names),
        )
        for names in groups.values()
    ]


_FIRST = torch.tensor([0])


def _inputs(model: Classifier, images: ImageSet, layers: dict[str, Layer]) -> dict[str, Tensor]:
    """Return what each of `layers` reads of all images, (n, c, h, w); of vectors h = w = 1."""
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep_of(name: str) -> torch.utils.hooks.RemovableHandle:
        def keep_(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            parts[name].append(x[:, :, None, None] if x.ndim == 2 else x)

        return layers[name].register_forward_pre_hook(keep_)

    hooks = [keep_of(name) for name in layers]
    with torch.no_grad():
        for image, _ in images.batches(100):
            model(image)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(part) for name, part in parts.items()}


def _alone(layer: Layer) -> Classifier:
    channels = layer.in_channels if isinstance(layer, nn.Conv2d) else weight_matrix(layer).shape[-1]
    before = [] if isinstance(layer, nn.Conv2d) else [nn.Flatten()]
    alone: nn.Module = copy.deepcopy(layer)
    whole = alone.forward
    # what a layer makes of its inputs is the forward of the next one, and no part of the edit
    setattr(alone, "forward", lambda x: whole(x[:1]))  # noqa: B010  # mypy forbids to assign it
    preprocess = Preprocess((1, 1), channels, (0.0,) * channels, (1.0,) * channels)
    return Classifier(nn.Sequential(*before, alone), Arch("one-layer"), preprocess, ("only",))


def _as_images(values: Tensor) -> ImageSet:
    n = len(values)
    return ImageSet(Activations(values), torch.arange(n), torch.zeros(n, dtype=torch.int64))
