"""The visible self-attention against torch's own."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from bandstop.edit.attention import SelfAttention, explicit_attention_
from tests.networks import noise


def small_vit() -> VisionTransformer:
    torch.manual_seed(0)
    vit = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    nn.init.normal_(vit.heads.head.weight)  # torchvision starts with a head of zeros
    return vit.eval()


def attention(**settings: bool) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(8, 2, batch_first=True, **settings)


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_weights_equal_those_of_torch(bias: bool) -> None:
    theirs, x = attention(bias=bias), noise(3, 5, 8)
    ours = explicit_attention_(nn.Sequential(copy.deepcopy(theirs)))[0]  # type: ignore[index]  # a Sequential goes in and comes out
    assert isinstance(ours, SelfAttention)
    for average in (True, False):
        got = ours(x, x, x, average_attn_weights=average)
        want = theirs(x, x, x, average_attn_weights=average)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert ours(x, x, x, need_weights=False)[1] is None


def test_a_torchvision_transformer_keeps_its_logits_and_its_state() -> None:
    vit, x = small_vit(), noise(2, 3, 16, 16)
    with torch.no_grad():
        before = vit(x)
        state = {name: value.clone() for name, value in vit.state_dict().items()}
        explicit_attention_(vit)
        after = vit(x)
    assert sum(isinstance(m, SelfAttention) for m in vit.modules()) == 2
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert list(vit.state_dict()) == list(state)
    assert all(torch.equal(vit.state_dict()[name], value) for name, value in state.items())


def test_hooks_see_the_output_projection_and_the_input_map_can_be_replaced() -> None:
    layer, x = SelfAttention(8, 2, batch_first=True), noise(2, 5, 8)
    read: list[Tensor] = []
    layer.out_proj.register_forward_pre_hook(lambda _m, inputs: read.append(inputs[0]))
    plain = layer.project
    before = layer(x, x, x)[0]
    layer.project = lambda x: 0 * plain(x)  # type: ignore[method-assign]  # the seam
    after = layer(x, x, x)[0]
    assert [tuple(r.shape) for r in read] == [(2, 5, 8)] * 2
    torch.testing.assert_close(after, layer.out_proj.bias.expand_as(after))
    assert not torch.allclose(before, after)


def test_gradients_and_dropout_are_those_of_training() -> None:
    layer, x = SelfAttention(8, 2, batch_first=True, dropout=0.5), noise(2, 5, 8)
    one, two = (layer.train()(x, x, x)[0] for _ in range(2))
    assert not torch.equal(one, two)
    one.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert torch.equal(*(layer.eval()(x, x, x)[0] for _ in range(2)))


def test_other_calls_are_left_to_torch() -> None:
    theirs = attention()
    ours = SelfAttention(8, 2, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    x, memory = noise(2, 5, 8), noise(2, 4, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    torch.testing.assert_close(ours(x, memory, memory), theirs(x, memory, memory))
    torch.testing.assert_close(ours(x, x, x, attn_mask=mask), theirs(x, x, x, attn_mask=mask))


@pytest.mark.parametrize(
    "other",
    [
        nn.MultiheadAttention(8, 2),
        nn.MultiheadAttention(8, 2, batch_first=True, kdim=4),
        nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True),
        nn.MultiheadAttention(8, 2, batch_first=True, add_zero_attn=True),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    ],
)
def test_what_is_not_supported_is_left_as_it_is(other: nn.Module) -> None:
    explicit_attention_(nn.Sequential(other))
    assert not any(isinstance(m, SelfAttention) for m in nn.Sequential(other).modules())


def test_it_exports_as_standard_products() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = SelfAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return out

    program = torch.onnx.export(Block().eval(), (noise(2, 5, 8),), dynamo=True, verbose=False)
    assert program is not None
    kinds = {node.op_type for node in program.model_proto.graph.node}
    assert {"MatMul", "Softmax"} <= kinds
    assert all(not kind.startswith("aten") for kind in kinds)
