"""Attention arranged for serving gives the logits of masked weights; in PyTorch, without a file."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.gates import Gate, bias_of, gateable
from bandstop.edit.network_vit import Attention
from bandstop.export.graph import GatedGraph
from bandstop.export.graph_attention import GatedAttention, arranged
from bandstop.export.parity import masked_logits
from bandstop.export.spec import ExportSpec
from tests.networks import classifier, lively_, noise
from tests.test_export_gates import vit
from tests.test_gates_networks import timm_vit, torchvision_vit

CLASSES = 4
TOLERANCE = 1e-5  # relative to the largest logit
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ours": (vit, 8),
    "torchvision": (torchvision_vit, 8),
    "timm": (timm_vit, 32),
}


def normed() -> nn.Module:
    """Return a transformer that normalises queries and keys, after which masks do not commute."""
    network: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=CLASSES,
        img_size=32,
        embed_dim=24,
        depth=1,
        num_heads=3,
        qk_norm=True,
    )
    return network


@torch.no_grad()
def lively(make: Callable[[], nn.Module], size: int) -> Classifier:
    """Return the network with attention far from even, and large biases in it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = lively_(make()).eval()
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[0] in {n.rpartition(".")[0] for n in gateable(network)}:
            parameter.mul_(3)
    return classifier(network, size=size, channels=3)


def gates_of(model: Classifier, masking: str) -> GateEdit:
    """Return masks in [0, 1] with both ends among them: tied, free, or of kernels alone."""
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: (1.4 * torch.rand(CLASSES, channels, generator=generator) - 0.2).clamp(0, 1)
        for name, channels in gateable(model.network).items()
    }
    if masking == "tied":
        masks |= {bias_of(n): m.clone() for n, m in masks.items() if bias_of(n) in masks}
    if masking == "kernels":
        masks = {n: m for n, m in masks.items() if n.endswith("weight")}
    return GateEdit(masks)


def served(graph: GatedGraph, image: Tensor, asked: list[list[int]]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = graph(image, torch.tensor(asked))[0]
    return logits


@pytest.mark.parametrize("masking", ["tied", "free", "kernels"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_masked_weights(name: str, masking: str) -> None:
    model = lively(*NETWORKS[name])
    gates = gates_of(model, masking)
    weights = [n for n in gates.masks if n.endswith("weight")]
    assert set(arranged(model.network, list(gates.masks))) == set(weights)
    asked = [[0, 0], [1, 2], [2, 1], [3, 0]]
    graph = GatedGraph(model, gates, ExportSpec("gated", forget_slots=2))
    image = noise(4, 3, *model.preprocess.size).abs()
    logits = served(graph, image, asked)
    for i, row in enumerate(asked):
        wanted = masked_logits(model, gates, row, image[i : i + 1])[0]
        plain = masked_logits(model, None, [], image[i : i + 1])[0]
        size = float(wanted.abs().max())
        assert float((wanted - plain).abs().max()) > 0.01 * size
        assert float((logits[i] - wanted).abs().max()) <= TOLERANCE * size


def test_masks_of_the_bias_of_keys_are_not_in_the_table() -> None:
    model = lively(vit, 8)  # two layers, 12 wide
    spec = ExportSpec("gated")
    widths = {m: GatedGraph(model, gates_of(model, m), spec).gates.masks.shape[1] for m in
              ("tied", "free", "kernels")}  # fmt: skip
    assert widths == {"tied": 2 * 36, "free": 2 * (36 + 24), "kernels": 2 * 36}


def test_attention_that_normalises_queries_is_masked_where_they_are_made() -> None:
    model = lively(normed, 32)
    gates = gates_of(model, "free")
    assert not arranged(model.network, list(gates.masks))
    graph = GatedGraph(model, gates, ExportSpec("gated"))
    image = noise(1, 3, 32, 32).abs()
    wanted = masked_logits(model, gates, [2], image)
    torch.testing.assert_close(served(graph, image, [[2]]), wanted, rtol=1e-5, atol=1e-5)


def test_masked_attention_is_refused() -> None:
    plain = Attention(8, 2)
    attention = GatedAttention(
        plain.qkv, plain.proj, 2, Gate("qkv.weight", ["qkv.weight"], {}, tied=True)
    )
    with pytest.raises(TypeError, match="causal"):
        attention(noise(1, 3, 8), is_causal=True)
