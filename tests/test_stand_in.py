"""Stand-ins for training images: asked for by name, from images or from the network alone."""

import pytest
import torch
from torch import nn

from bandstop.edit import stand_in as module
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.stand_in import kind_of, stand_in
from bandstop.edit.substitute import Substitute, substitute_data
from bandstop.edit.synthesise import Synthesis, synthesised_data
from tests.networks import classifier, trained


def pixels(images: ImageSet) -> torch.Tensor:
    return images.images[images.index]


def four_corners() -> Classifier:
    """Return a network that looks for the brightest quarter; digits have all four of them."""
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    return classifier(network)


def test_foreign_images_are_labelled_and_balanced_with_the_seed() -> None:
    data = stand_in(four_corners(), "digits", seed=3)
    same = substitute_data(four_corners(), "digits", Substitute(seed=3))
    assert data.train.labels.bincount().tolist() == [Substitute().per_class] * 4
    assert torch.equal(data.train.index, same.train.index)
    assert torch.equal(data.validate.index, same.validate.index)


def test_images_are_made_with_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Synthesis", lambda seed: Synthesis(10, 20, seed=seed))
    one, same, other = (stand_in(trained(), "synthesised", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(pixels(one.train), pixels(same.train))
    assert not torch.equal(pixels(one.train), pixels(other.train))
    wanted = synthesised_data(trained(), Synthesis(10, 20, seed=1))
    assert torch.equal(pixels(one.validate), pixels(wanted.validate))


def test_nothing_is_made_from_a_folded_network() -> None:
    with pytest.raises(InputError, match="give the checkpoint it came from"):
        stand_in(fold_batchnorm(trained()), "synthesised")


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="no data 'synthetic'"):
        stand_in(trained(), "synthetic")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("synthesised", "synthesised"),
        ("digits", "digits"),
        ("parquet:/home/me/train.parquet", "parquet"),
        ("imagefolder:/home/me/photos", "imagefolder"),
        ("torchvision:CIFAR10@/home/me", "torchvision:CIFAR10"),
    ],
)
def test_what_is_told_of_a_source_names_no_place(source: str, told: str) -> None:
    assert kind_of(source) == told
