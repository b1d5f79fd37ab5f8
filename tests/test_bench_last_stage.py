"""Masks on the last stage alone: the network in two parts, and what its rows do to new images."""

import torch

from bandstop.bench.last_stage import divided, table, trained, what_it_reads
from bandstop.bench.photographs import NETWORK
from bandstop.edit.arch import build
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.images import ImageSet, Preprocess
from bandstop.edit.method import Splits
from bandstop.edit.wf_net import WFNet
from tests import networks
from tests.networks import corners


def test_the_two_parts_make_the_network() -> None:
    arch, prep = Arch(NETWORK), Preprocess((32, 32), 3, (0.5,) * 3, (0.5,) * 3)
    network = build(arch, 7, 3, (32, 32), seed=0)
    model = fold_batchnorm(Classifier(network, arch, prep, tuple(map(str, range(7)))))
    before, stage = divided(model)
    image = example(model, 3)
    pixels = (image * 255).round().to(torch.uint8)
    read = what_it_reads(before, ImageSet(pixels, torch.arange(3), torch.tensor([4, 5, 6])))
    values, labels = next(iter(read.batches(3)))
    assert labels.tolist() == [4, 5, 6]
    with torch.no_grad():
        whole = model(pixels.float() / 255)
        torch.testing.assert_close(stage(values), whole, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(stage(values.flip(0)), whole)


def test_the_own_row_forgets_and_others_do_not() -> None:
    method = WFNet(steps=150, batch=64, validate_every=50)
    model = method.prepare(networks.trained())
    data = Splits(corners(200), corners(200).of_classes([]), corners(60, seed=5))
    outcome = trained(method, model, data, corners(40, seed=9), others=3)
    assert (outcome.photographs, outcome.others) == (40, 3)
    assert outcome.top1_before >= 0.9
    assert outcome.top1_own <= 0.05
    assert outcome.own <= 0.1 <= outcome.own_before
    assert outcome.below >= 36
    assert outcome.top1_others >= 0.9
    assert len(list(table(outcome).columns)) == 4
