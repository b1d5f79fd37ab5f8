"""Where WF-Net's masks start: by hand on known activations, and on layers of every kind."""

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.arch import build
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.gates import gateable, layer_of
from bandstop.edit.images import ImageSet, Preprocess
from bandstop.edit.method import Splits
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet
from bandstop.edit.wf_start import class_means, initial_alphas, lower_, standing_out
from tests.networks import classifier, corners, trained


def test_what_stands_out_is_counted_in_deviations_and_nothing_else_counts() -> None:
    means = torch.tensor([[4.0, 1.0, 2.0], [0.0, 1.0, 4.0], [0.0, 1.0, 3.0], [0.0, 1.0, 3.0]])
    # channel 0: mean 1, deviation 3 ** 0.5; channel 1 is the same for all; channel 2: 3, 0.5 ** 0.5
    expected = torch.tensor([[3**0.5, 0, 0], [0, 0, 2**0.5], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(standing_out(means), expected)


def test_a_convolution_answers_by_its_positive_part() -> None:
    conv = nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
    network = nn.Sequential(conv, nn.Flatten(), nn.Linear(2 * 64, 4))
    model = classifier(network)  # (x - 0.5) / 0.25: white is 2, black is -2
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    pixels[1] = 255
    pixels[2, :, :4] = 255  # half of it
    images = ImageSet(pixels, torch.arange(4), torch.tensor([0, 1, 2, 2]))
    means = class_means(model, ["0"], images)["0"]
    expected = torch.tensor([[0.0, 2.0], [2.0, 0.0], [0.5, 1.5], [0.0, 0.0]])
    torch.testing.assert_close(means, expected)
    alphas = initial_alphas(model, 3.0)
    lower_(alphas, model, images, 0.5, seed=0)
    torch.testing.assert_close(alphas["0.weight"], 3 - 0.5 * standing_out(expected))
    assert alphas["0.weight"].requires_grad


NETWORKS = ("bandstop:vit", "torchvision:vit_b_16", "timm:vit_tiny_patch16_224")


@pytest.mark.parametrize("name", NETWORKS)
def test_queries_keys_and_values_answer_by_their_size(name: str) -> None:
    small = {"patch": 8, "dim": 24, "depth": 1, "heads": 2}
    arch = Arch(name, small if name == "bandstop:vit" else {})
    size = (16, 16) if name == "bandstop:vit" else (224, 224)
    prep = Preprocess(size, 3, (0.5,) * 3, (0.5,) * 3)
    model = Classifier(build(arch, 3, 3, size, seed=0), arch, prep, ("a", "b", "c"))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 3, *size), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(3), torch.arange(3))
    names = gateable(model.network)
    layers = list(dict.fromkeys(map(layer_of, names)))
    means = class_means(model, layers, images)
    assert means.keys() == set(layers)
    for parameter, channels in names.items():
        assert means[layer_of(parameter)].shape == (3, channels)
        assert bool((means[layer_of(parameter)] > 0).all())


def test_masks_that_start_there_forget_in_fewer_steps() -> None:
    model = WFNet().prepare(trained())
    data = corners(200)

    def loss(warm: float) -> float:
        setting = WFNet(steps=30, batch=64, validate_every=30, warm=warm)
        edit = setting(model, every_class(model), Splits(data, data.of_classes([]), corners(60, 5)))
        losses = edit.found["validation_losses"]
        assert isinstance(losses, list)
        return float(min(losses))

    assert loss(1.0) < 0.9 * loss(0.0)


def test_the_network_and_its_gradients_are_left_alone() -> None:
    model = WFNet().prepare(trained())
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    alphas = initial_alphas(model, 3.0)
    lower_(alphas, model, corners(40), 1.0, seed=0)
    assert all(torch.equal(value, before[k]) for k, value in model.network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())
    assert all(isinstance(a, Tensor) and a.is_leaf for a in alphas.values())
