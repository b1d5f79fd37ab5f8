"""Attention of a gated graph, arranged so that its masks cost least; the function is the same.

With masks a of the kernels and c of the biases, q = a_q (W_q x) + c_q b_q, and alike for k and v:

* a_k may act on the query instead, since what is compared is the sum of q_i k_i;
* what is the same for every key leaves a softmax as it is, so k's bias and its mask do nothing;
* the weights that a softmax gives sum to 1, so a_v and c_v b_v may act on what the heads read.

So two products, each a third as wide as queries, keys and values together, do all; with masks of
the bias apart, a sum for q's, while v's joins the bias of the projection.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.attention import SelfAttention
from bandstop.edit.gates import Gate, layer_of
from bandstop.edit.network_vit import Attention

_TIMM = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")


class GatedAttention(nn.Module):
    """Self-attention under masks; its parameters are called as in the attention it replaces."""

    def __init__(self, qkv: nn.Linear, proj: nn.Module, heads: int, gate: Gate) -> None:
        """Take over `qkv`, which makes queries, keys and values, and `proj`."""
        super().__init__()
        self.qkv = qkv
        self.proj = proj
        self.heads = heads
        self.gate = gate

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Return (n, tokens, dim) of x (n, tokens, dim).

        Raises:
            TypeError: attention to a part of the tokens, which is not arranged here.
        """
        if attn_mask is not None or is_causal:
            raise TypeError("masked or causal attention cannot be served with masks of classes")
        made = F.linear(x, self.qkv.weight, self.qkv.bias if self.gate.tied else None)
        read, b_v, _ = attend(made, self.qkv.bias, self.heads, self.gate)
        return _projected(read, b_v, self.proj)


def attend(
    qkv: Tensor, bias: Tensor | None, heads: int, gate: Gate
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return what attention gives under the masks of now.

    Args:
        qkv: queries, keys and values (n, tokens, 3 dim), not masked; with their bias when tied.
        bias: of queries, keys and values (3 dim,), where there is one. Its masks, when it has
            any, are those of queries and values alone (see `without_keys`).
        heads: how many there are.
        gate: names the masks.

    Returns:
        read: what the heads read (n, tokens, dim).
        b_v: what is still to be added to every token of it, (n or 1, dim).
        weights: of the heads (n, heads, tokens, tokens).
    """
    n, tokens, width = qkv.shape
    dim = width // 3
    a_q, a_k, a_v = gate.selected[gate.weight].chunk(3, dim=1)  # each (n, dim)
    a_k = a_k * (dim // heads) ** -0.5
    q, k, v = qkv.split(dim, dim=2)
    q = q * (a_q * a_k)[:, None]
    b_q, b_v = _biases(bias, gate)
    if b_q is not None:
        q = q + (b_q * a_k)[:, None]
    q, k, v = (part.reshape(n, tokens, heads, -1).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    read = (weights @ v).transpose(1, 2).reshape(n, tokens, dim) * a_v[:, None]
    return read, b_v, weights


def arranged(network: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """Return weight -> attention of those masked parameters `names` that can be served so."""
    found: dict[str, nn.Module] = {}
    for name in names:
        owner = layer_of(name)
        if name.endswith("in_proj_weight"):
            module = network.get_submodule(owner)
            if isinstance(module, SelfAttention):
                found[name] = module
        elif name.endswith("qkv.weight"):
            module = network.get_submodule(layer_of(owner))
            if type(module) is Attention or _is_plain_timm(module):
                found[name] = module
    return found


def install_(network: nn.Module, gate: Gate) -> None:
    """Arrange the attention whose weight `gate` masks in `network` (see `arranged`)."""
    (module,) = arranged(network, [gate.weight]).values()
    if isinstance(module, SelfAttention):
        _install_in_place_(module, gate)
        return
    qkv, proj = module.get_submodule("qkv"), module.get_submodule("proj")
    assert isinstance(qkv, nn.Linear)  # so it was gated
    parent, _, child = layer_of(layer_of(gate.weight)).rpartition(".")
    gated = GatedAttention(qkv, proj, heads_of(module), gate)
    setattr(network.get_submodule(parent), child, gated)


def heads_of(attention: nn.Module) -> int:
    """Return how many heads an attention has that can be arranged."""
    heads = attention.heads if isinstance(attention, Attention) else attention.num_heads
    assert isinstance(heads, int)
    return heads


def without_keys(mask: Tensor) -> Tensor:
    """Return the columns of queries and values of `mask` (rows, 3 dim)."""
    q, _, v = mask.chunk(3, dim=1)
    return torch.cat([q, v], dim=1)


def _biases(bias: Tensor | None, gate: Gate) -> tuple[Tensor | None, Tensor | None]:
    """Return what is still to be added to queries and to what is read, (n or 1, dim) each."""
    if bias is None or gate.tied:
        return None, None
    b_q, _, b_v = bias[None].chunk(3, dim=1)
    if gate.bias is None:
        return b_q, b_v
    c_q, c_v = gate.selected[gate.bias].chunk(2, dim=1)
    return c_q * b_q, c_v * b_v


def _projected(read: Tensor, b_v: Tensor | None, proj: nn.Module) -> Tensor:
    """Return `proj` of what is read and `b_v`, which costs a sum of its own only where it must."""
    if b_v is not None and isinstance(proj, nn.Linear):
        bias = F.linear(b_v, proj.weight, proj.bias)  # (n or 1, dim)
        return F.linear(read, proj.weight) + bias[:, None]
    out: Tensor = proj(read if b_v is None else read + b_v[:, None])
    return out


def _install_in_place_(attention: SelfAttention, gate: Gate) -> None:
    def project(x: Tensor) -> Tensor:
        bias = attention.in_proj_bias if gate.tied else None
        return F.linear(x, attention.in_proj_weight, bias)

    def attended(qkv: Tensor) -> tuple[Tensor, Tensor]:
        read, b_v, weights = attend(qkv, attention.in_proj_bias, attention.num_heads, gate)
        return read if b_v is None else read + b_v[:, None], weights

    setattr(attention, "project", project)  # noqa: B010  # mypy forbids to assign to a method
    setattr(attention, "attend", attended)  # noqa: B010  # same


def _is_plain_timm(module: nn.Module) -> bool:
    """Return whether `module` is timm's attention with nothing on queries, keys or heads."""
    named = f"{type(module).__module__}.{type(module).__qualname__}"
    others = [m for name, m in module.named_children() if name not in ("qkv", "proj")]
    return named in _TIMM and all(isinstance(m, nn.Identity | nn.Dropout) for m in others)
