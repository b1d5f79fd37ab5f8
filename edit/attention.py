"""Self-attention whose every product with a weight can be seen and changed from outside.

torch's MultiheadAttention multiplies with `in_proj_weight` and `out_proj.weight` by itself: no hook
sees what these weights read, and no mask can act on what they make.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.MultiheadAttention):
    """A MultiheadAttention, with its parameters and their names, that works in visible steps.

    `out_proj(attend(project(x)))`: `project` is the one map that reads `in_proj_weight` and
    `in_proj_bias`, and may be replaced on an instance by any function of the same kind;
    `out_proj` is called as the module that it is.
    """

    def project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values (n, tokens, 3 dim), in this order, of x."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)

    def attend(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the heads read (n, tokens, dim) and their weights (n, heads, tokens, tokens).

        Args:
            qkv: what `project` returns.
        """
        n, tokens, width = qkv.shape
        parts = qkv.reshape(n, tokens, 3, self.num_heads, width // 3 // self.num_heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # each (n, heads, tokens, features)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        if self.training and self.dropout:
            weights = F.dropout(weights, self.dropout)
        return (weights @ v).transpose(1, 2).reshape(n, tokens, width // 3), weights

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output (n, tokens, dim) and, if asked, the attention weights.

        A call that is not plain self-attention is left to torch, and is as unseen as before.
        """
        masked = key_padding_mask is not None or attn_mask is not None or is_causal
        if masked or query is not key or key is not value or query.ndim != 3:
            return super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                attn_mask=attn_mask,
                average_attn_weights=average_attn_weights,
                is_causal=is_causal,
            )
        heads, weights = self.attend(self.project(query))
        out: Tensor = self.out_proj(heads)
        if not need_weights:
            return out, None
        return out, weights.mean(dim=1) if average_attn_weights else weights


def explicit_attention_(network: nn.Module) -> nn.Module:
    """Replace every attention of `network` that can be by a `SelfAttention`; return `network`.

    Parameters are kept by reference and under their names. Left as they are: attention without
    `batch_first`, with other dimensions for keys or values, with `bias_k` or `add_zero_attn`, and
    that of torch's own Transformer layers, which do not call it in evaluation.
    """
    for parent in list(network.modules()):
        if isinstance(parent, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            continue
        for name, child in list(parent.named_children()):
            if type(child) is nn.MultiheadAttention and _supported(child):
                setattr(parent, name, _explicit(child))
    return network


def _supported(attention: nn.MultiheadAttention) -> bool:
    return (
        attention.batch_first
        and attention._qkv_same_embed_dim
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


def _explicit(attention: nn.MultiheadAttention) -> SelfAttention:
    with torch.device("meta"):
        explicit = SelfAttention(
            attention.embed_dim,
            attention.num_heads,
            dropout=attention.dropout,
            bias=attention.in_proj_bias is not None,
            batch_first=True,
        )
    explicit.in_proj_weight = attention.in_proj_weight
    explicit.in_proj_bias = attention.in_proj_bias
    explicit.out_proj = attention.out_proj
    return explicit.train(attention.training)
