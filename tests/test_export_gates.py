"""Gated graphs of every kind of mask agree with masked weights; tied masks keep layers fused."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.gates import bias_of, gateable
from bandstop.export.graph import GatedGraph
from bandstop.export.onnx_file import to_onnx
from bandstop.export.parity import check_parity
from bandstop.export.rules import check_graph
from bandstop.export.spec import ExportSpec, signature
from tests.networks import classifier, lively_
from tests.test_gates_networks import timm_vit, torchvision_vit

CLASSES = 4
ONE, TWO = (
    ExportSpec("gated", max_batch_size=8),
    ExportSpec("gated", forget_slots=2, allow_none=True),
)


def resnet() -> nn.Module:
    return build(Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"}), CLASSES, 3, (8, 8))


@torch.no_grad()
def vit() -> nn.Module:
    network = build(Arch("bandstop:vit", {"dim": 12, "depth": 2, "heads": 2}), CLASSES, 3, (8, 8))
    for parameter in network.parameters():
        parameter.mul_(10)  # so that attention is far from even
    return network


class Case(NamedTuple):
    """A network and how it is masked."""

    network: Callable[[], nn.Module]
    spec: ExportSpec = ONE
    tied: bool = False
    layers: tuple[str, ...] = ("*",)
    apart: bool = False
    size: int = 8


CASES = {
    "resnet": Case(resnet),
    "tied": Case(resnet, tied=True),
    "last stage": Case(resnet, layers=("stages.1.*",)),
    "shift apart": Case(resnet, apart=True),
    "vit, two slots": Case(vit, TWO),
    "torchvision vit, tied": Case(torchvision_vit, tied=True),
    "timm vit": Case(timm_vit, size=32),
}


def masked(case: Case) -> tuple[Classifier, GateEdit]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = lively_(case.network())
    plain = classifier(network, size=case.size, channels=3)
    model = fold_batchnorm(plain, shift="apart" if case.apart else "inside")
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: 0.1 + 0.9 * torch.rand(CLASSES, channels, generator=generator)
        for name, channels in gateable(model.network, case.layers).items()
    }
    if case.tied:
        masks |= {bias_of(n): m.clone() for n, m in masks.items() if bias_of(n) in masks}
    return model, GateEdit(masks)


def exported(model: Classifier, gates: GateEdit, spec: ExportSpec = ONE) -> bytes:
    inputs, outputs = signature(spec, model.preprocess, CLASSES)
    file = to_onnx(GatedGraph(model, gates, spec), inputs, outputs)
    check_graph(file, inputs, outputs)
    return file


class Served(NamedTuple):
    """A file, and what it was made of."""

    file: bytes
    model: Classifier
    gates: GateEdit


@functools.cache
def served(name: str) -> Served:
    model, gates = masked(CASES[name])
    return Served(exported(model, gates, CASES[name].spec), model, gates)


@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_masked_weights(name: str) -> None:
    file, model, gates = served(name)
    record = check_parity(file, model, gates, CASES[name].spec, None)
    assert record.max_abs <= 1e-4
    # taking another row would be seen
    assert record.row_gap is not None
    assert record.row_gap > 10 * record.tolerance


def columns(file: bytes) -> int:
    weights = {i.name: i for i in onnx.load_model_from_string(file).graph.initializer}
    return int(numpy_helper.to_array(weights["gates.masks"]).shape[1])


def test_tied_masks_take_half_the_columns_and_leave_convolutions_their_biases() -> None:
    tied, free = served("tied").file, served("resnet").file
    assert 2 * columns(tied) == columns(free)
    assert inputs_of_convolutions(tied) == {3}
    assert inputs_of_convolutions(free) == {2}


def inputs_of_convolutions(file: bytes) -> set[int]:
    nodes = onnx.load_model_from_string(file).graph.node
    return {len(node.input) for node in nodes if node.op_type == "Conv"}


def test_masks_that_differ_in_one_bias_are_not_taken_for_tied() -> None:
    _, model, gates = served("tied")
    other = {**gates.masks, "conv1.bias": gates.masks["conv1.bias"] * 0.5}
    file = exported(model, GateEdit(other))
    assert columns(file) == sum(mask.shape[1] for mask in other.values())
    assert check_parity(file, model, GateEdit(other), ONE, None).max_abs <= 1e-4


def test_a_bias_without_masks_stays_open() -> None:
    _, model, gates = served("resnet")
    kernels = GateEdit({n: m for n, m in gates.masks.items() if n.endswith("weight")})
    file = exported(model, kernels)
    assert check_parity(file, model, kernels, ONE, None).max_abs <= 1e-4
