"""Masks on the families of networks: a mixed batch equals weights that are literally masked."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call

from bandstop.edit.arch import build
from bandstop.edit.attention import explicit_attention_
from bandstop.edit.batchnorm import ChannelAffine, example, fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.errors import InputError
from bandstop.edit.gate_check import check_gates
from bandstop.edit.gates import Gated, bias_of, gateable, rows
from tests.networks import classifier, lively_, noise

CLASSES = 4


class PreActivation(nn.Module):
    """A BatchNorm before its convolution reads a sum, so it stays behind as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(self.bn(x + 1).relu())
        y: Tensor = self.fc(x.mean((2, 3)))
        return y


class SplitAttention(nn.Module):
    """Queries, keys and values from three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        weights = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
        y: Tensor = self.fc((weights @ self.value(x)).mean(1))
        return y


def ours(name: str, **args: int | str) -> nn.Module:
    return build(Arch(f"bandstop:{name}", args), CLASSES, 3, (8, 8))


def torchvision_vit() -> nn.Module:
    network: nn.Module = explicit_attention_(
        torchvision.models.VisionTransformer(
            image_size=8,
            patch_size=4,
            num_layers=2,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=32,
            num_classes=CLASSES,
        )
    )
    return network


def torchvision_vgg() -> nn.Module:
    network: nn.Module = torchvision.models.vgg11(num_classes=CLASSES).eval()
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(512, CLASSES)  # its own has 100 million weights
    return network


def timm_vit() -> nn.Module:
    network: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=CLASSES,
        img_size=32,
        embed_dim=24,
        depth=2,
        num_heads=3,
    )
    return network


# name -> network, image size, a gated layer, number of gated parameters after folding
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, str, int]] = {
    "resnet": (lambda: ours("resnet", width=4, blocks="1-1"), 8, "stages.1.0.conv2", 12),
    "vgg": (lambda: ours("vgg", width=4, layout="vgg8"), 8, "features.0", 10),
    "vit": (lambda: ours("vit", dim=12, depth=2, heads=2), 8, "blocks.1.attn.qkv", 4),
    "pre-activation": (PreActivation, 8, "conv", 2),
    "split attention": (SplitAttention, 8, "query", 6),
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(num_classes=CLASSES),
        32,
        "layer4.1.conv2",
        40,
    ),
    "torchvision mobilenet_v2": (
        lambda: torchvision.models.mobilenet_v2(num_classes=CLASSES),
        32,
        "features.5.conv.1.0",
        104,
    ),
    "torchvision vgg11": (torchvision_vgg, 32, "features.0", 16),
    "torchvision vit": (
        torchvision_vit,
        8,
        "encoder.layers.encoder_layer_1.self_attention",
        4,
    ),
    "timm efficientnet-lite0": (
        lambda: timm.create_model("tf_efficientnet_lite0", num_classes=CLASSES),
        32,
        "blocks.1.0.conv_dw",
        98,
    ),
    "timm vit": (timm_vit, 32, "blocks.0.attn.qkv", 4),
}


@pytest.fixture(scope="module", params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Classifier:
    make, size, _, _ = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = lively_(make())
    return fold_batchnorm(classifier(network, size=size, channels=3))


def masks_of(model: Classifier, *, tied: bool = False) -> dict[str, Tensor]:
    masks = {
        name: 0.6 + 0.4 * torch.sigmoid(3 * noise(CLASSES, channels, seed=i))
        for i, (name, channels) in enumerate(gateable(model.network).items())
    }
    same = {bias_of(name): mask for name, mask in masks.items() if bias_of(name) in masks}
    return masks | same if tied else masks


def folded_logits(model: Classifier, edit: GateEdit, forget: list[int], image: Tensor) -> Tensor:
    state = fold(model.network.state_dict(), edit, forget)
    logits: Tensor = functional_call(model.network, state, (image,))
    return logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@torch.no_grad()
def test_a_mixed_batch_equals_masked_weights(
    model: Classifier, dtype: torch.dtype, tolerance: float, tied: bool
) -> None:
    as_asked = copy.deepcopy(model).to(dtype)
    masks = {n: m.to(dtype) for n, m in masks_of(model, tied=tied).items()}
    image = example(as_asked, CLASSES)
    classes = torch.tensor([2, 0, 3, 1])
    mixed = Gated(as_asked.network, tuple(masks), tied=tied)(image, rows(masks, classes))
    for i, c in enumerate(classes.tolist()):
        one = image[i : i + 1]
        alone, other = (
            folded_logits(as_asked, GateEdit(masks), [r], one) for r in (c, (c + 1) % CLASSES)
        )
        scale = float(alone.abs().max())
        assert float((mixed[i : i + 1] - alone).abs().max()) <= tolerance * scale
        # the check can tell rows apart
        assert float((mixed[i : i + 1] - other).abs().max()) > 10 * tolerance * scale


def test_what_is_gated(name: str, model: Classifier) -> None:
    _, _, layer, count = NETWORKS[name]
    found = gateable(model.network)
    state = model.network.state_dict()
    assert len(found) == count
    assert any(parameter.startswith(f"{layer}.") for parameter in found)
    assert all(len(state[parameter]) == channels for parameter, channels in found.items())
    unmasked = {"head", "heads", "fc", "classifier", "mlp", "patch_embed", "conv_proj", "patches"}
    assert not any(unmasked & set(parameter.split(".")) for parameter in found)


def test_every_family_passes_the_check(model: Classifier) -> None:
    check_gates(model, gateable(model.network))
    check_gates(model, gateable(model.network), tied=True)


def test_a_batchnorm_before_its_convolution_stays_a_constant() -> None:
    folded = fold_batchnorm(classifier(lively_(PreActivation()), channels=3))
    assert isinstance(folded.network.bn, ChannelAffine)


class Standardised(nn.Conv2d):
    """Divides by the size of its weight, so that a mask on the weight has no effect."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        y: Tensor = self._conv_forward(input, weight, self.bias)
        return y


class Mixed(nn.Module):
    """Attention that sees the batch in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3 * 64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.qkv(x.flatten(1)[None].repeat(4, 1, 1)).mean(0)
        return y


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(Standardised(3, CLASSES, 8), nn.Flatten()), "differ by .* relative"),
        (Mixed(), "cannot be masked: The size of tensor"),
    ],
)
def test_layers_on_which_masks_mean_something_else_are_refused(
    network: nn.Module, message: str
) -> None:
    model = classifier(network, channels=3)
    with pytest.raises(InputError, match=message):
        check_gates(model, gateable(network))


def test_layers_are_chosen_by_pattern() -> None:
    network = ours("resnet", width=4, blocks="1-1")
    assert set(gateable(network, ("stages.1.*",))) == {
        "stages.1.0.conv1.weight",
        "stages.1.0.conv2.weight",
        "stages.1.0.downsample.0.weight",
    }
    assert set(gateable(network, ("conv1", "*downsample*"))) == {
        "conv1.weight",
        "stages.1.0.downsample.0.weight",
    }


@pytest.mark.parametrize("pattern", ["stage.1.*", "fc"])
def test_a_pattern_that_matches_nothing_is_told_with_close_names(pattern: str) -> None:
    network = ours("resnet", width=4, blocks="1-1")
    with pytest.raises(InputError, match=r"'.*' matches no layer \(there are .*conv"):
        gateable(network, ("conv1", pattern))


def test_nothing_needs_a_gradient_before_the_first_gated_layer() -> None:
    network = ours("resnet", width=4, blocks="1-1")
    names = tuple(gateable(network, ("stages.1.*",)))
    net = Gated(network, names)
    seen: dict[str, bool] = {}
    for name, module in net.network.named_modules():
        module.register_forward_hook(
            lambda _m, _x, y, name=name: seen.__setitem__(name, y.requires_grad)
        )
    masks = {n: torch.ones(2, len(network.state_dict()[n]), requires_grad=True) for n in names}
    net(torch.zeros(2, 3, 8, 8), masks)
    assert seen["fc"]
    assert seen["stages.1.0.conv1"]
    assert not any(needs for name, needs in seen.items() if name.startswith(("stages.0", "conv1")))
