"""The trunk of a teacher's encoder: a vision transformer instead of convolutions.

Its patches are embedded by convolutions (Xiao et al. 2021, "Early convolutions help transformers see
better").
"""

from __future__ import annotations

from functools import cache

import torch
from openvino import Core
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.students.layers import sincos_grid
from jepa_export.teachers.layers import Block, Sizes
from jepa_recipes.two_token.networks import CHANNELS, stem

# A token covers 2 x 2 positions of the map.
_EDGE, _SIDE = 2, 8
_WIDTH = CHANNELS * _EDGE**2
_SIZES = Sizes(width=_WIDTH, depth=3, heads=3, hidden=4 * _WIDTH)
_EPS = 1e-5


@cache
def supports_bf16() -> bool:
    """Return whether the processor has bf16 matrix products.

    With them, training takes a third to half of the time; emulated, it took four times as long as fp32.
    """
    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class ViTTrunk(nn.Module):
    """Trunk: normalized pixels [N, 3, 128, 128] -> 64 tokens of 192 -> a map [N, CHANNELS, 16, 16]."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem()
        self.blocks = nn.Sequential(*(Block(_SIZES, _EPS) for _ in range(_SIZES.depth)))
        self.norm = nn.LayerNorm(_WIDTH, _EPS)
        self.register_buffer("positions", sincos_grid(_SIDE, _WIDTH), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = functional.pixel_unshuffle(self.stem(pixels), _EDGE).flatten(2).transpose(1, 2)
        # The exported graph is fp32.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training and supports_bf16()):
            tokens = self.norm(self.blocks(patches + self.positions)).float()
        return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (_SIDE, _SIDE)), _EDGE)
