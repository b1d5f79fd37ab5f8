"""Our networks: every size of image, one call a layer, BatchNorm that folds."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Arch, ArchArg, Classifier
from bandstop.edit.network_resnet import ResNet
from bandstop.edit.network_vgg import LAYOUTS, VGG
from tests.networks import classifier, noise

SMALL: dict[str, dict[str, ArchArg]] = {
    "resnet": {"width": 4, "blocks": "1-2-1"},
    "vgg": {"width": 2},
    "vit": {"dim": 8, "depth": 2, "heads": 2},
}
LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)


@pytest.mark.parametrize("classes", [2, 37])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize("name", SMALL)
def test_every_layer_is_called_once(name: str, side: int, channels: int, classes: int) -> None:
    network = build(Arch(f"bandstop:{name}", SMALL[name]), classes, channels, (side, side)).eval()
    calls: Counter[nn.Module] = Counter()

    def count(module: nn.Module, _x: object, _y: object) -> None:
        calls[module] += 1

    layers = [module for module in network.modules() if isinstance(module, LAYERS)]
    for layer in layers:
        layer.register_forward_hook(count)
    logits = network(noise(3, channels, side, side))
    assert logits.shape == (3, classes)
    assert bool(torch.isfinite(logits).all())
    assert calls == dict.fromkeys(layers, 1)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_learns_from_every_parameter(name: str) -> None:
    network = build(Arch(f"bandstop:{name}", SMALL[name]), 3, 1, (8, 12))
    network(noise(4, 1, 8, 12)).square().sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # a constant added to all keys changes no softmax, and BatchNorm takes the mean out again
    assert [n for n in still if not n.endswith("qkv.bias")] == []


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_known_sizes() -> None:
    resnet = ResNet(width=64, blocks=(2, 2, 2, 2), in_channels=3, num_classes=10)
    assert parameters(resnet) == 11_173_962  # as widely reported for ResNet-18 on CIFAR-10
    for layout, convolutions in {"vgg8": 5, "vgg11": 8, "vgg13": 10, "vgg16": 13}.items():
        vgg = VGG(width=1, layout=layout, in_channels=3, num_classes=10)
        assert sum(isinstance(m, nn.Conv2d) for m in vgg.modules()) == convolutions
    assert sum(LAYOUTS["vgg19"]) == 16
    # convolutions 9 (3 64 + 64 128 + 128 256 + 256 512 + 512 512), norms 2 1472, head 512 10 + 10
    wide = VGG(width=64, layout="vgg8", in_channels=3, num_classes=10)
    norms_and_head = 2 * (64 + 128 + 256 + 512 + 512) + 5130
    assert parameters(wide) == 9 * (192 + 8192 + 32768 + 131072 + 262144) + norms_and_head


def test_attention_tells_places_apart() -> None:
    network = build(Arch("bandstop:vit", SMALL["vit"]), 4, 1, (8, 8)).eval()
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4, :4] = 1
    moved = image.flip(3)
    with torch.no_grad():
        assert float((network(image) - network(moved)).abs().max()) > 1e-4


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return `network` after drawing what its BatchNorm layers learn and measure."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(module.running_mean, Tensor)
            assert isinstance(module.running_var, Tensor)
            for value, mean in ((module.weight, 1.0), (module.bias, 0.0), (module.running_mean, 0)):
                nn.init.normal_(value, mean, 0.3, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
    return network


def norms(model: Classifier) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize(
    "name",
    [
        "bandstop:resnet",
        "bandstop:vgg",
        "torchvision:resnet18",
        "torchvision:vgg11_bn",
        "torchvision:mobilenet_v2",
        "timm:resnet18",
        "timm:efficientnet_lite0",
    ],
)
def test_batchnorm_folds_away(name: str) -> None:
    arch = Arch(name, SMALL.get(name.removeprefix("bandstop:"), {}))
    model = classifier(lively(build(arch, 4, 3, (32, 32))), size=32, channels=3)
    folded = fold_batchnorm(model)
    image = example(model, 4)
    with torch.no_grad():
        before, after = model(image), folded(image)
    assert norms(model) > 0
    assert norms(folded) == 0
    assert float((before - after).abs().max()) <= 1e-4 * float(before.abs().max())
