"""A small vision transformer; its modules are named as timm names them."""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention; `qkv` makes queries, keys and values in this order."""

    def __init__(self, dim: int, heads: int) -> None:
        """Make `heads` heads of `dim // heads` features each."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, dim) of x (n, tokens, dim)."""
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (n, heads, tokens, dim // heads)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, dim))
        return out


class Mlp(nn.Module):
    """Two linear layers around a GELU, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        """Make the layers for tokens of `dim` features."""
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, dim) of x (n, tokens, dim)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to what came in."""

    def __init__(self, dim: int, heads: int) -> None:
        """Make a block for tokens of `dim` features."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, tokens, dim) of x (n, tokens, dim)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """One token a patch."""

    def __init__(self, patch: int, in_channels: int, dim: int) -> None:
        """Make tokens of `dim` features from `patch` x `patch` pixels."""
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, patches, dim) of images (n, in_channels, h, w)."""
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class ViT(nn.Module):
    """A vision transformer with a class token and learned positions (Dosovitskiy et al. 2021)."""

    def __init__(
        self,
        *,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        image_size: tuple[int, int],
        in_channels: int,
        num_classes: int,
    ) -> None:
        """Make `depth` blocks.

        Raises:
            ValueError: `patch` does not divide `image_size`, or `heads` not `dim`.
        """
        super().__init__()
        if image_size[0] % patch or image_size[1] % patch or dim % heads:
            raise ValueError(f"patch must divide {image_size}, and heads must divide dim")
        patches = (image_size[0] // patch) * (image_size[1] // patch)
        self.patch_embed = PatchEmbed(patch, in_channels, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of normalised images (n, in_channels, h, w)."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        logits: Tensor = self.head(x[:, 0])
        return logits
