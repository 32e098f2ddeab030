"""The teacher of Two Rooms: a vision transformer, read out as the demo's convolutional encoder is.

Convolutions make its patches (Xiao et al. 2021, "Early convolutions help transformers see better")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.students.layers import Block, sincos_grid
from jepa_export.students.two_rooms import CHANNELS, stem

# A token is a square of 2 x 2 places of the map.
_EDGE, _SIDE, _HEADS = 2, 8, 3


class ViTTrunk(nn.Module):
    """Normalised pixels [N, 3, 128, 128] -> 64 tokens of 192 -> a map [N, CHANNELS, 16, 16]."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        width = CHANNELS * _EDGE**2
        self.stem = stem()
        self.blocks = nn.Sequential(*(Block(width, _HEADS) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("positions", sincos_grid(_SIDE, width), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = functional.pixel_unshuffle(self.stem(pixels), _EDGE).flatten(2).transpose(1, 2)
        # Twice to three times as fast, where the processor has products of bf16; what is exported is fp32.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            tokens = self.norm(self.blocks(patches + self.positions)).float()
        return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (_SIDE, _SIDE)), _EDGE)
