"""The streaming encoder: one frame becomes a few latent tokens, at the same cost for each frame.

A plain pre-norm vision transformer (Dosovitskiy et al. 2021) reads the patches of one frame; learned queries
then pool them into the latent (attentive pooling as in Lee et al. 2019, "Set Transformer"). Motion is left to
the predictor, which reads the latents of several frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from jepa_export.students.layers import Block, CrossBlock, sincos_grid, unit_scale

# ImageNet statistics in the range 0 to 255 of the frame: the published teachers were trained with them.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of the encoder.

    Attributes:
        px: Side of the frame in pixels.
        width: Width of the transformer.
        depth: Number of its layers.
        heads: Number of heads of a layer.
        tokens: Number of tokens of a latent.
        dim: Dimensions of a token.

    Raises:
        ValueError: The sizes are incompatible, or there are more than 16 tokens.
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
    """Patch embedding: uint8 [N, px, px, 3] -> [N, patches, width].

    Patches are embedded by a matrix product, and the normalization of the pixels is folded into its weights:
    the product reads the bytes of the frame, which INT8 represents exactly.
    """

    mean: Tensor
    scale: Tensor

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


class LatentConfig(Protocol):
    """Frame side in pixels, and number and width of the tokens of a latent."""

    @property
    def px(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def dim(self) -> int: ...


class FrameEncoder(nn.Module):
    """Encoder of uint8 frames [N, px, px, 3] (RGB) to latents [N, tokens, dim]."""

    config: LatentConfig


class Encoder(FrameEncoder):
    """The encoder of a student; each token has unit scale."""

    config: EncoderConfig
    position: Tensor

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
    """Reconstruction of the teacher's tokens from a latent, for training only.

    [N, tokens, dim] -> [N, side * side, teacher_dim]: one query per position of the teacher's grid reads the
    latent.
    """

    queries: Tensor

    def __init__(self, config: EncoderConfig, *, teacher_side: int, teacher_dim: int) -> None:
        super().__init__()
        self.register_buffer("queries", sincos_grid(teacher_side, config.width)[None], persistent=False)
        self.read = CrossBlock(config.width, config.heads, config.dim)
        self.out = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, teacher_dim))

    def forward(self, latent: Tensor) -> Tensor:
        out: Tensor = self.out(self.read(self.queries, latent))
        return out
