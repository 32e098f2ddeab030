"""Building blocks of encoder and predictor: pre-norm transformer parts in widely supported operators.

Attention is written out (MatMul, softmax, MatMul) and positions are constant tables, so that compilers for
robots find only plain operators in the exported graphs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MLP_RATIO = 4
# Wider heads are slower on every target. In INT8, TensorRT does not fuse attention with wider heads, and
# OpenVINO 2026.4 computes it incorrectly for few tokens.
MAX_HEAD_DIM = 64


def unit_scale(latent: Tensor) -> Tensor:
    """Normalize each token [..., dim] to mean 0 and standard deviation 1.

    This is layer normalization without affine parameters, as in V-JEPA 2-AC: distances between latents are
    then comparable across models.
    """
    return functional.layer_norm(latent, [int(latent.shape[-1])], eps=1e-5)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return scaled dot-product attention of [..., heads, n, head_dim] over [..., heads, m, head_dim].

    ``mask`` is added to the scores.
    """
    scores: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    attended: Tensor = scores.softmax(-1) @ value
    return attended


def inner_dim(dim: int, heads: int) -> int:
    """Return the total width of all heads: that of the tokens, or less, see :data:`MAX_HEAD_DIM`."""
    return heads * min(dim // heads, MAX_HEAD_DIM)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Split [batch, n, heads * head_dim] into [batch, heads, n, head_dim]."""
    by_head: Tensor = tokens.unflatten(-1, (heads, -1))
    return by_head.transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """Merge [batch, heads, n, head_dim] into [batch, n, heads * head_dim]."""
    return tokens.transpose(1, 2).flatten(2)


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Return sine and cosine of ``positions`` [n] at ``dim`` / 2 rates: [n, dim] (Vaswani et al. 2017)."""
    frequencies = torch.exp(torch.arange(dim // 2) * (-math.log(10_000.0) / (dim // 2)))
    angles = positions[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_grid(side: int, dim: int) -> Tensor:
    """Return the positions of a square grid, row by row: [side * side, dim], half of it for the row."""
    along = torch.arange(side)
    return torch.cat(
        [sincos(along.repeat_interleave(side), dim // 2), sincos(along.repeat(side), dim // 2)], dim=1
    )


class MLP(nn.Sequential):
    """Two linear layers with a hard swish (Howard et al. 2019) in between.

    The hidden layer is :data:`MLP_RATIO` times as wide. NPUs compute a GELU outside their matrix engine: a
    ViT-S takes a fifth longer with it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, MLP_RATIO * dim), nn.Hardswish(), nn.Linear(MLP_RATIO * dim, dim))


class Block(nn.Module):
    """Pre-norm transformer block: [batch, n, dim] -> the same shape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, inner = heads, inner_dim(dim, heads)
        self.norm_attention = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * inner)
        self.out = nn.Linear(inner, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = MLP(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm_attention(tokens)
        # Three products in the graph: splitting the output of one product is a copy on NPUs.
        weights = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        query, key, value = (split_heads(functional.linear(normed, *part), self.heads) for part in weights)
        tokens = tokens + self.out(merge_heads(attend(query, key, value)))
        out: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return out


class CrossBlock(nn.Module):
    """Cross-attention block: queries [batch or 1, n, dim] read [batch, m, source_dim] -> [batch, n, dim]."""

    def __init__(self, dim: int, heads: int, source_dim: int) -> None:
        super().__init__()
        self.heads, inner = heads, inner_dim(dim, heads)
        self.norm_queries = nn.LayerNorm(dim)
        self.norm_source = nn.LayerNorm(source_dim)
        self.query = nn.Linear(dim, inner)
        self.key_value = nn.Linear(source_dim, 2 * inner)
        self.out = nn.Linear(inner, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = MLP(dim)

    def forward(self, queries: Tensor, source: Tensor) -> Tensor:
        query = split_heads(self.query(self.norm_queries(queries)), self.heads)
        key, value = (
            split_heads(part, self.heads)
            for part in self.key_value(self.norm_source(source)).chunk(2, dim=-1)
        )
        queries = queries + self.out(merge_heads(attend(query, key, value)))
        out: Tensor = queries + self.mlp(self.norm_mlp(queries))
        return out
