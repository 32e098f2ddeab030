"""What encoder and predictor are built from: plain pre-norm transformer parts, in operators every target has.

Attention is spelled out (MatMul, softmax, MatMul) and positions are constant tables, so that the exported
graphs hold nothing that a compiler for a robot has to guess at."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MLP_RATIO = 4
# Wider heads cost more everywhere. In INT8, TensorRT fuses no attention of wider ones, and OpenVINO 2026.4
# computes it wrong where tokens are few.
MOST_HEAD_DIM = 64


def unit_scale(latent: Tensor) -> Tensor:
    """Every token [..., dim] brought to mean 0 and standard deviation 1 (layer normalisation without
    affine, as V-JEPA 2-AC does): distances between latents then mean the same in every model."""
    return functional.layer_norm(latent, [int(latent.shape[-1])], eps=1e-5)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of [..., heads, n, head_dim] over [..., heads, m, head_dim]; ``mask`` is
    added to the scores."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


def inner_dim(dim: int, heads: int) -> int:
    """The width of all heads together: that of the tokens, or less, see :data:`MOST_HEAD_DIM`."""
    return heads * min(dim // heads, MOST_HEAD_DIM)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[batch, n, heads * head_dim] -> [batch, heads, n, head_dim]."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """[batch, heads, n, head_dim] -> [batch, n, heads * head_dim]."""
    return tokens.transpose(1, 2).flatten(2)


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Sine and cosine of ``positions`` [n] at ``dim`` / 2 frequencies: [n, dim] (Vaswani et al. 2017)."""
    frequencies = torch.exp(torch.arange(dim // 2) * (-math.log(10_000.0) / (dim // 2)))
    angles = positions[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_grid(side: int, dim: int) -> Tensor:
    """Positions of a square grid, row by row: [side * side, dim], half for row and half for column."""
    along = torch.arange(side)
    return torch.cat(
        [sincos(along.repeat_interleave(side), dim // 2), sincos(along.repeat(side), dim // 2)], dim=1
    )


class MLP(nn.Sequential):
    """Linear, hard swish (Howard et al. 2019), Linear, with a hidden layer :data:`MLP_RATIO` times as wide.
    NPUs compute a GELU outside of their matrix engine: with it a ViT-S takes a fifth longer there."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Linear(dim, MLP_RATIO * dim), nn.Hardswish(), nn.Linear(MLP_RATIO * dim, dim))


class Block(nn.Module):
    """A pre-norm transformer block: [batch, n, dim] -> the same."""

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
        # Three products in the graph: a split of one product's output is a copy on NPUs.
        weights = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        query, key, value = (split_heads(functional.linear(normed, *part), self.heads) for part in weights)
        tokens = tokens + self.out(merge_heads(attend(query, key, value)))
        out: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return out


class CrossBlock(nn.Module):
    """Queries that read other tokens: [batch or 1, n, dim], [batch, m, source_dim] -> [batch, n, dim]."""

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
