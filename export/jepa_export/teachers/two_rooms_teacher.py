"""The teacher of Two Rooms: a vision transformer, read out as the demo's convolutional encoder is.

Convolutions make its patches (Xiao et al. 2021, "Early convolutions help transformers see better")."""

from __future__ import annotations

from functools import cache

import torch
from openvino import Core
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.students.layers import sincos_grid
from jepa_export.students.two_rooms_networks import CHANNELS, stem
from jepa_export.teachers.layers import Block, Sizes

# A token is a square of 2 x 2 places of the map.
_EDGE, _SIDE = 2, 8
_WIDTH = CHANNELS * _EDGE**2
_SIZES = Sizes(width=_WIDTH, depth=3, heads=3, hidden=4 * _WIDTH)
_EPS = 1e-5


@cache
def multiplies_bf16() -> bool:
    """Whether the processor has products of bf16. With them training takes half to a third of the time; done
    without, they took four times as long as those of fp32."""
    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class ViTTrunk(nn.Module):
    """Normalised pixels [N, 3, 128, 128] -> 64 tokens of 192 -> a map [N, CHANNELS, 16, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem()
        self.blocks = nn.Sequential(*(Block(_SIZES, _EPS) for _ in range(_SIZES.depth)))
        self.norm = nn.LayerNorm(_WIDTH, _EPS)
        self.register_buffer("positions", sincos_grid(_SIDE, _WIDTH), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = functional.pixel_unshuffle(self.stem(pixels), _EDGE).flatten(2).transpose(1, 2)
        # What is exported is fp32.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training and multiplies_bf16()):
            tokens = self.norm(self.blocks(patches + self.positions)).float()
        return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (_SIDE, _SIDE)), _EDGE)
