"""Where masks are multiplied on: behind what they commute with, and the logits stay."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.gates import bias_of, gateable
from bandstop.export.graph import GatedGraph
from bandstop.export.onnx_file import to_onnx
from bandstop.export.parity import masked_logits
from bandstop.export.rules import check_graph
from bandstop.export.spec import ExportSpec, signature
from tests.networks import classifier, noise

CLASSES, SIZE = 4, 12
TOLERANCE = 1e-5  # absolute, on logits of size 1


class TwoReaders(nn.Module):
    """What is masked is read with and without its ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + 0.5 * x


class Shift(nn.Module):
    """A number a channel is added."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.linspace(-1, 1, 16)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, padding=1)


# what lies behind a masked convolution -> the operators there in the file
TIED: dict[str, tuple[nn.Module, list[str]]] = {
    "relu": (nn.ReLU(), ["Relu", "Mul"]),
    "leaky_relu": (nn.LeakyReLU(0.2), ["LeakyRelu", "Mul"]),
    "padded_maximum": (pool(), ["MaxPool", "Mul"]),
    "relu_maximum": (nn.Sequential(nn.ReLU(), pool()), ["Relu", "MaxPool", "Mul"]),
    "maximum_relu": (nn.Sequential(pool(), nn.ReLU()), ["MaxPool", "Relu", "Mul"]),
    "mean_with_padding": (nn.AvgPool2d(3, 2, padding=1), ["AveragePool", "Mul"]),
    "mean_without_padding": (
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        ["AveragePool", "Mul"],
    ),
    "relu6": (nn.ReLU6(), ["Mul", "Clip"]),
    "hardswish": (nn.Hardswish(), ["Mul", "HardSwish"]),
    "gelu": (nn.GELU(), ["Mul"]),  # read twice
    "two_readers": (TwoReaders(), ["Mul"]),
    "sum": (Shift(), ["Mul", "Add"]),
}
FREE: dict[str, tuple[nn.Module, list[str]]] = {
    "relu": (nn.ReLU(), ["Mul", "Add", "Relu"]),
    "padded_maximum": (pool(), ["MaxPool", "Mul", "Add"]),
    "relu_maximum": (nn.Sequential(nn.ReLU(), pool()), ["MaxPool", "Mul", "Add", "Relu"]),
    "mean": (nn.AvgPool2d(3, 2, padding=1), ["Mul", "Add", "AveragePool"]),
    "relu6_maximum": (nn.Sequential(nn.ReLU6(), pool()), ["Mul", "Add", "Clip", "MaxPool"]),
}


class Branches(nn.Module):
    """Side by side: a convolution under BatchNorm, what `between` has, another convolution."""

    def __init__(self, between: Mapping[str, nn.Module], channels: Mapping[str, int]) -> None:
        super().__init__()
        wide = {name: channels.get(name, 16) for name in between}
        self.first = nn.ModuleDict({n: nn.Conv2d(3, c, 3, bias=False) for n, c in wide.items()})
        self.norm = nn.ModuleDict({n: nn.BatchNorm2d(c) for n, c in wide.items()})
        self.between = nn.ModuleDict(between)
        self.last = nn.ModuleDict({n: nn.Conv2d(c, 16, 3) for n, c in wide.items()})
        self.head = nn.Linear(16 * len(wide), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            self.last[n](self.between[n](self.norm[n](self.first[n](x)))).mean((2, 3))
            for n in self.first
        ]
        logits: Tensor = self.head(torch.cat(parts, dim=1))
        return logits


class Case(NamedTuple):
    """A folded network and its masks, and the file of both."""

    model: Classifier
    gates: GateEdit
    file: bytes


@functools.cache
def case(*, tied: bool) -> Case:
    """Return folded biases of both signs, scales of both signs, masks in [0, 1] with both ends."""
    return case_of({name: module for name, (module, _) in (TIED if tied else FREE).items()}, tied)


@torch.no_grad()
def case_of(between: Mapping[str, nn.Module], tied: bool) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Branches(between, {"leaky_relu": 12}).eval()
        for norm in network.norm.values():
            nn.init.normal_(norm.get_parameter("weight"))
            nn.init.normal_(norm.get_parameter("bias"))
        for parameter in network.head.parameters():
            parameter.mul_(4)
    model = fold_batchnorm(classifier(network, size=SIZE, channels=3))
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: (1.4 * torch.rand(CLASSES, channels, generator=generator) - 0.2).clamp(0, 1)
        for name, channels in gateable(model.network).items()
    }
    assert {0.0, 1.0} <= set(masks["first.relu.weight"].flatten().tolist())
    if tied:
        masks |= {bias_of(n): m.clone() for n, m in masks.items() if bias_of(n) in masks}
    gates = GateEdit(masks)
    return Case(model, gates, exported(model, gates))


def exported(model: Classifier, gates: GateEdit) -> bytes:
    spec = ExportSpec("gated")
    inputs, outputs = signature(spec, model.preprocess, CLASSES)
    file = to_onnx(GatedGraph(model, gates, spec), inputs, outputs)
    check_graph(file, inputs, outputs)
    return file


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_masked_weights(tied: bool) -> None:
    model, gates, file = case(tied=tied)
    image = noise(CLASSES, 3, SIZE, SIZE).abs()
    feeds = {"image": image.numpy(), "forget_class": np.arange(CLASSES)[:, None]}
    logits, _ = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, feeds)
    wanted = [masked_logits(model, gates, [c], image[c : c + 1])[0] for c in range(CLASSES)]
    assert float((torch.stack(wanted) - masked_logits(model, None, [], image)).abs().max()) > 0.5
    assert np.abs(logits - torch.stack(wanted).numpy()).max() <= TOLERANCE


def behind(file: bytes, name: str) -> list[str]:
    """Return the operators between the two convolutions of the branch `name`."""
    graph = onnx.load_model_from_string(file).graph
    (node,) = (n for n in graph.node if f"first.{name}.weight" in n.input)
    found: list[str] = []
    while True:
        readers = [n for n in graph.node if node.output[0] in n.input]
        if len(readers) != 1 or f"last.{name}.weight" in readers[0].input:
            return found
        node = readers[0]
        found.append(node.op_type)


@pytest.mark.parametrize("name", TIED)
def test_tied_masks_move_behind_what_they_commute_with(name: str) -> None:
    assert behind(case(tied=True).file, name) == TIED[name][1]


@pytest.mark.parametrize("name", FREE)
def test_a_maximum_is_taken_before_the_masks_of_kernel_and_bias(name: str) -> None:
    assert behind(case(tied=False).file, name) == FREE[name][1]


def optimised(file: bytes, folder: Path) -> list[str]:
    """Return the operators that ONNX Runtime makes of `file`."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # it warns that the file is for this processor only
    ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]


def test_masks_take_the_size_of_their_maps_in_the_layout_of_the_runtime(tmp_path: Path) -> None:
    file = case(tied=True).file
    graph = onnx.load_model_from_string(file).graph
    dims = [v.type.tensor_type.shape.dim for v in graph.value_info]
    shapes = {tuple(d.dim_param or d.dim_value for d in dim) for dim in dims}
    assert shapes == {("N", 16, n, n) for n in (SIZE - 2, SIZE // 2 - 1, SIZE - 4, SIZE // 2 - 3)}
    found = optimised(file, tmp_path)
    if "ReorderOutput" in found:  # not where the processor has no such layout
        assert "Resize" not in found


def test_a_width_that_does_not_fill_a_block_is_multiplied_as_it_is() -> None:
    graph = onnx.load_model_from_string(case(tied=True).file).graph
    made = {name: node for node in graph.node for name in node.output}
    (activation,) = (n for n in graph.node if n.op_type == "LeakyRelu")
    (product,) = (n for n in graph.node if activation.output[0] in n.input)
    assert made[product.input[1]].op_type == "Unsqueeze"


def test_the_same_gates_give_the_same_bytes() -> None:
    model, gates, file = case_of({"relu": TIED["relu"][0]}, tied=True)
    assert "Resize" in {n.op_type for n in onnx.load_model_from_string(file).graph.node}
    assert exported(model, gates) == file
