"""Graphs of networks at full size with random weights and masks, exported when first asked for."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from bandstop.cli.output import say
from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit, edited
from bandstop.edit.gates import bias_of, gateable
from bandstop.edit.images import Preprocess
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.graph_attention import arranged, heads_of
from bandstop.export.onnx_file import to_onnx
from bandstop.export.spec import ExportSpec, signature

_GATED = ExportSpec("gated")
_SPECS = {
    "gated": _GATED,
    "gated_kernel_bias": _GATED,
    "gated_tied": _GATED,
    "gated_uint16": replace(_GATED, table="uint16"),
    "gated_k4": replace(_GATED, forget_slots=4),
    "baked": ExportSpec("baked"),
    "plain": ExportSpec("original"),
    "original": ExportSpec("original"),
}


@dataclass(frozen=True, slots=True)
class Network:
    """What is exported: an architecture for images (3, size, size).

    Attributes:
        arch: how it is built.
        size: pixels a side.
        classes: its outputs.
        tied: whether tied masks forget as well on its kind as those of kernel and bias apart
            (docs/graph.md); then `gated` has them.
    """

    arch: Arch
    size: int
    classes: int = 10
    tied: bool = True

    def ties(self, kind: str) -> bool:
        """Return whether the gated file `kind` has tied masks."""
        own = {"gated_kernel_bias": False, "gated_tied": True}
        return own.get(kind, self.tied)


NETWORKS: Mapping[str, Network] = {
    "resnet18_32": Network(Arch("bandstop:resnet", {"width": 64, "blocks": "2-2-2-2"}), 32),
    "resnet18_224": Network(Arch("torchvision:resnet18"), 224),
    "vgg16_32": Network(Arch("bandstop:vgg", {"width": 64, "layout": "vgg16"}), 32),
    "vit_tiny_224": Network(Arch("timm:vit_tiny_patch16_224"), 224, tied=False),
}


@dataclass(slots=True)
class Files:
    """Exported files by network and kind, each made once.

    Attributes:
        made: (network, kind) -> the file.
        seconds: (network, kind) -> seconds of the export.
        models: network -> the classifier, BatchNorm folded.
    """

    made: dict[tuple[str, str], bytes] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    models: dict[str, Classifier] = field(default_factory=dict)

    @property
    def gated(self) -> list[tuple[str, str]]:
        """Network and kind of the gated files."""
        return [key for key in self.made if key[1].startswith("gated")]

    def of(self, name: str, kind: str) -> bytes:
        """Return the file `kind` of the network `name`."""
        if (name, kind) not in self.made:
            if name not in self.models:
                self.models[name] = random_classifier(NETWORKS[name])
            say(f"graph: exports {kind} {name}")
            started = time.perf_counter()
            self.made[name, kind] = exported(self.models[name], kind, NETWORKS[name].ties(kind))
            self.seconds[name, kind] = time.perf_counter() - started
        return self.made[name, kind]

    def table_bytes(self, name: str, kind: str) -> int:
        """Return the size of the masks in a gated file."""
        stored = onnx.load_model_from_string(self.of(name, kind)).graph.initializer
        return sum(numpy_helper.to_array(i).nbytes for i in stored if i.name == "gates.masks")


def random_classifier(network: Network) -> Classifier:
    """Return `network` with random weights, BatchNorm folded."""
    size = (network.size, network.size)
    module = build(network.arch, network.classes, 3, size).eval()
    names = tuple(f"class {c}" for c in range(network.classes))
    prep = Preprocess(size, 3, (0.5,) * 3, (0.25,) * 3)
    return fold_batchnorm(Classifier(module, network.arch, prep, names))


def random_masks(model: Classifier, *, tied: bool) -> GateEdit:
    """Return masks in [0.1, 1] of all that WF-Net masks."""
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: 0.1 + 0.9 * torch.rand(model.num_classes, channels, generator=generator)
        for name, channels in gateable(model.network).items()
    }
    same = {bias_of(name): mask for name, mask in masks.items() if bias_of(name) in masks}
    return GateEdit(masks | same if tied else masks)


def exported(model: Classifier, kind: str, tied: bool) -> bytes:
    """Return the file `kind` of `model`, under masks that are `tied` or not."""
    spec = _SPECS[kind]
    graph: GatedGraph | PlainGraph
    if kind.startswith("gated"):
        graph = GatedGraph(model, random_masks(model, tied=tied), spec)
    elif kind == "baked":
        graph = PlainGraph(edited(model, random_masks(model, tied=tied), (0,)), spec)
    else:
        graph = PlainGraph(best_plain(model) if kind == "plain" else model, spec)
    return to_onnx(graph, *signature(spec, model.preprocess, model.num_classes))


class PlainAttention(nn.Module):
    """Attention as the gated graph has it, without its masks."""

    def __init__(self, qkv: nn.Linear, proj: nn.Module, heads: int) -> None:
        """Take over `qkv`, with the scale of the queries written into it."""
        super().__init__()
        self.qkv, self.proj, self.heads = qkv, proj, heads
        dim = qkv.out_features // 3
        with torch.no_grad():
            for parameter in qkv.parameters():
                parameter[:dim] *= (dim // heads) ** -0.5

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Return (n, tokens, dim) of x (n, tokens, dim)."""
        n, tokens, _ = x.shape
        dim = self.qkv.out_features // 3
        parts = self.qkv(x).split(dim, dim=2)
        q, k, v = (part.reshape(n, tokens, self.heads, -1).transpose(1, 2) for part in parts)
        weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        read = (weights @ v).transpose(1, 2).reshape(n, tokens, dim)
        out: Tensor = self.proj(read)
        return out


def best_plain(model: Classifier) -> Classifier:
    """Return `model` with its attention as in a gated graph; a network without any as it is."""
    network = copy.deepcopy(model.network)
    for name, module in arranged(network, list(gateable(network))).items():
        qkv, proj = module.get_submodule("qkv"), module.get_submodule("proj")
        assert isinstance(qkv, nn.Linear)  # so it can be masked
        parent, _, child = name.removesuffix(".qkv.weight").rpartition(".")
        setattr(network.get_submodule(parent), child, PlainAttention(qkv, proj, heads_of(module)))
    return model.replaced(network)


def same_structure(file: bytes, other: bytes) -> bool:
    """Return whether two files differ in the values of their weights and in nothing else."""
    return _structure(file) == _structure(other)


def _structure(file: bytes) -> bytes:
    model = onnx.load_model_from_string(file)
    for initializer in model.graph.initializer:
        if not initializer.name.startswith("constant_"):
            initializer.raw_data = b""
    return bytes(model.SerializeToString(deterministic=True))
