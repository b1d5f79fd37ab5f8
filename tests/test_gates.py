"""Masks chosen per sample, against weights that are literally masked (paper C; oracles C.7)."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.gates import Gated, gateable, rows
from tests.networks import noise, tiny


def folded_tiny() -> Classifier:
    return fold_batchnorm(tiny()).double()


def random_masks(model: Classifier, num_classes: int = 4) -> dict[str, Tensor]:
    return {
        name: torch.sigmoid(3 * noise(num_classes, channels, seed=i).double())
        for i, (name, channels) in enumerate(gateable(model.network).items())
    }


def gated(model: Classifier) -> Gated:
    return Gated(model.network, tuple(gateable(model.network)))


def test_kernels_and_biases_of_every_convolution_are_gateable() -> None:
    assert gateable(folded_tiny().network) == {
        "conv1.weight": 8,
        "conv1.bias": 8,
        "conv2.weight": 8,
        "conv2.bias": 8,
        "conv3.weight": 12,
        "conv3.bias": 12,
    }


def test_open_masks_leave_the_network_as_it_is() -> None:
    model = folded_tiny()
    image = example(model, 5).double()
    ones = {name: torch.ones(5, n).double() for name, n in gateable(model.network).items()}
    torch.testing.assert_close(
        gated(model)(image, ones), model.network(image), rtol=1e-12, atol=1e-12
    )


def test_a_mixed_batch_equals_one_folded_network_a_row() -> None:
    model = folded_tiny()
    masks = random_masks(model)
    image, classes = example(model, 9).double(), torch.tensor([2, 0, 1, 3, 3, 0, 2, 1, 2])
    mixed = gated(model)(image, rows(masks, classes))
    state = model.network.state_dict()
    for i, c in enumerate(classes.tolist()):
        alone = functional_call(
            model.network, fold(state, GateEdit(masks), [c]), (image[i : i + 1],)
        )
        torch.testing.assert_close(mixed[i : i + 1], alone, rtol=1e-10, atol=1e-10)
    other = functional_call(model.network, fold(state, GateEdit(masks), [1]), (image[:1],))
    assert not torch.allclose(mixed[:1], other)  # the check above can tell rows apart


def test_changing_one_row_leaves_the_others_bit_for_bit() -> None:
    model = folded_tiny()
    masks, image = random_masks(model), example(model, 3).double()
    one = gated(model)(image, rows(masks, torch.tensor([0, 1, 2])))
    two = gated(model)(image, rows(masks, torch.tensor([0, 3, 2])))
    assert torch.equal(one[[0, 2]], two[[0, 2]])
    assert not torch.equal(one[1], two[1])


def test_only_masks_receive_gradients_and_the_copy_is_frozen() -> None:
    model = folded_tiny()
    net = gated(model)
    masks = {n: m.requires_grad_() for n, m in random_masks(model).items()}
    net(example(model, 2).double(), rows(masks, torch.tensor([0, 1]))).sum().backward()
    assert all(m.grad is not None and m.grad[:2].abs().sum() > 0 for m in masks.values())
    assert all(m.grad is not None and not m.grad[2:].any() for m in masks.values())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert all(p.requires_grad for p in model.network.parameters())


def test_masks_are_not_kept_after_an_error() -> None:
    model = folded_tiny()
    net = gated(model)
    with pytest.raises(RuntimeError):
        net(torch.zeros(1, 9, 8, 8).double(), rows(random_masks(model), torch.tensor([0])))
    assert net.selected == {}


def test_other_layers_cannot_be_gated() -> None:
    network = nn.Sequential(nn.LayerNorm(4))
    with pytest.raises(TypeError, match="0 is a LayerNorm, which cannot be gated"):
        Gated(network, ("0.weight",))
    with pytest.raises(TypeError, match=r"with its weight only, got conv1\.bias"):
        Gated(folded_tiny().network, ("conv1.bias", "conv2.weight"))
