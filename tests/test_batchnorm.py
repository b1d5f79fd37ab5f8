import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.batchnorm import ChannelAffine, ChannelShift, example, fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from tests.networks import classifier, noise, tiny


def norms(model: Classifier) -> int:
    return sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())


def test_folded_network_computes_the_same_without_batchnorm() -> None:
    model = tiny()
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    folded = fold_batchnorm(model)
    image = example(model, 16)
    torch.testing.assert_close(folded(image), model(image), rtol=1e-5, atol=1e-5)
    assert norms(folded) == 0
    assert folded.bn_folded
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())
    assert norms(model) == 2


class PreActivation(nn.Module):
    """A BatchNorm that reads a sum: there is no layer to fold it into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)
        self.bn.running_mean = noise(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.bn(self.conv(x) + x).relu().mean((2, 3)))
        return y


def test_batchnorm_with_no_layer_before_it_becomes_a_constant() -> None:
    model = classifier(PreActivation())
    folded = fold_batchnorm(model)
    assert isinstance(folded.network.bn, ChannelAffine)
    image = example(model, 4)
    torch.testing.assert_close(folded(image), model(image), rtol=1e-5, atol=1e-5)


class ReadTwice(PreActivation):
    """The convolution's output is used beside its BatchNorm, so folding would change that use."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        logits: Tensor = self.fc((self.bn(y) + y).mean((2, 3)))
        return logits


def test_wiring_that_folding_would_break_is_refused() -> None:
    with pytest.raises(InputError, match="read in more than one place"):
        fold_batchnorm(classifier(ReadTwice()))


def test_linear_layers_are_folded_too() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    nn.init.normal_(network[2].weight)  # type: ignore[arg-type]  # a tensor
    model = classifier(network)
    folded = fold_batchnorm(model)
    assert norms(folded) == 0
    torch.testing.assert_close(folded(example(model, 3)), model(example(model, 3)))


class ChangedInPlace(PreActivation):
    """The convolution's output is overwritten before its BatchNorm reads it."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu(self.conv(x), inplace=True)
        logits: Tensor = self.fc(self.bn(y).mean((2, 3)))
        return logits


def test_an_output_that_is_changed_in_place_is_not_folded_into() -> None:
    model = classifier(ChangedInPlace())
    folded = fold_batchnorm(model)
    assert isinstance(folded.network.bn, ChannelAffine)
    torch.testing.assert_close(folded(example(model, 4)), model(example(model, 4)))


def test_the_shift_can_be_left_apart() -> None:
    model = tiny()
    apart = fold_batchnorm(model, shift="apart")
    image = example(model, 16)
    torch.testing.assert_close(apart(image), model(image), rtol=1e-5, atol=1e-5)
    assert norms(apart) == 0
    assert apart.bn_folded == "apart"
    assert isinstance(apart.network.bn1, ChannelShift)
    inside = fold_batchnorm(model).network.state_dict()
    state = apart.network.state_dict()
    assert torch.equal(state["conv1.weight"], inside["conv1.weight"])
    assert "conv1.bias" not in state
    assert torch.equal(state["bn1.shift"], inside["conv1.bias"])


def test_a_mask_before_a_frozen_batchnorm_is_one_on_the_layer_folded_apart() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    network[1].running_mean = noise(4)
    nn.init.normal_(network[0].bias)  # type: ignore[arg-type]  # a tensor
    model = classifier(network)
    apart = fold_batchnorm(model, shift="apart")
    mask = torch.tensor([0.1, 0.5, 0.9, 1.0])
    for each in (model, apart):
        conv = each.network[0]  # type: ignore[index]  # a Sequential
        conv.weight.data *= mask[:, None, None, None]
        conv.bias.data *= mask.flip(0)
    torch.testing.assert_close(apart(example(model, 3)), model(example(model, 3)))
