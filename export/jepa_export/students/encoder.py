"""The streaming encoder: one frame becomes a few latent tokens, at the same cost for every frame.

A plain pre-norm vision transformer (Dosovitskiy et al. 2021) reads the patches of one frame; learned queries
then pool them into the latent (attentive pooling as in Lee et al. 2019, "Set Transformer"). What moved is
left to the predictor, which sees the latents of several frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_export.students.layers import Block, CrossBlock, sincos_grid, unit_scale

# Of ImageNet, in the 0 to 255 of the frame: what the published teachers were trained with.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes. The frame is ``px`` x ``px``, a latent ``tokens`` x ``dim``; ``width``, ``depth`` and ``heads``
    are those of the transformer.

    Raises:
        ValueError: sizes that do not fit each other, or more than 16 tokens.
    """

    px: int
    patch: int
    width: int
    depth: int
    heads: int
    tokens: int
    dim: int

    def __post_init__(self) -> None:
        if self.px < 1 or self.px % self.patch:
            raise ValueError(f"px must be a multiple of the patch ({self.patch}), got {self.px}")
        if self.width % (4 * self.heads):
            raise ValueError(f"width must be a multiple of 4 x heads ({4 * self.heads}), got {self.width}")
        if not 1 <= self.tokens <= 16:
            raise ValueError(f"tokens must be between 1 and 16, got {self.tokens}")


class PatchEmbedding(nn.Module):
    """uint8 [N, px, px, 3] -> [N, patches, width].

    A patch is a row of a matrix product, and the normalisation of the pixels is folded into its weights: the
    product reads the frame's bytes, and INT8 represents them exactly."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.side, self.patch = config.px // config.patch, config.patch
        self.proj = nn.Linear(3 * config.patch**2, config.width)
        repeats = config.patch**2
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).repeat(repeats), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(PIXEL_STD).repeat(repeats), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        rows = frame.reshape(-1, self.side, self.patch, self.side, self.patch * 3)
        patches = rows.transpose(2, 3).reshape(-1, self.side**2, 3 * self.patch**2)
        weight = self.proj.weight * self.scale
        bias = self.proj.bias - weight @ self.mean
        return nn.functional.linear(patches.to(weight.dtype), weight, bias)


class Encoder(nn.Module):
    """uint8 frames [N, px, px, 3] (RGB) -> latents [N, tokens, dim], each token of unit scale."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = PatchEmbedding(config)
        self.register_buffer("position", sincos_grid(self.embed.side, config.width), persistent=False)
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.depth)))
        self.queries = nn.Parameter(0.02 * torch.randn(1, config.tokens, config.width))
        self.pool = CrossBlock(config.width, config.heads, config.width)
        self.out = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.dim))

    def forward(self, frame: Tensor) -> Tensor:
        tokens = self.blocks(self.embed(frame) + self.position)
        return unit_scale(self.out(self.pool(self.queries, tokens)))


class TeacherHead(nn.Module):
    """From a latent back to the teacher's tokens, for training only: [N, tokens, dim] -> [N, side * side,
    teacher_dim]. One query for every place of the teacher's grid reads from the latent."""

    def __init__(self, config: EncoderConfig, *, teacher_side: int, teacher_dim: int) -> None:
        super().__init__()
        self.register_buffer("queries", sincos_grid(teacher_side, config.width)[None], persistent=False)
        self.read = CrossBlock(config.width, config.heads, config.dim)
        self.out = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, teacher_dim))

    def forward(self, latent: Tensor) -> Tensor:
        out: Tensor = self.out(self.read(self.queries, latent))
        return out
