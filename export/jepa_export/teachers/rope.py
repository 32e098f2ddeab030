"""Rotary positions in three axes (frame, row, column), as in V-JEPA 2, as constant tables.

Three equal parts of a head's dimensions are rotated by a token's frame, row and column, in adjacent pairs (Su
et al. 2021, "RoFormer"); the remaining dimensions are unchanged. V-JEPA 2 uses different frequencies for the
two dimensions of a pair (its tables are tiled over the pairs); its weights were trained with that, so it is
reproduced here. V-JEPA 2.1 uses the same frequency for both (its tables are interleaved).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

Pairing = Literal["tiled", "interleaved"]


class Rotation(NamedTuple):
    """Rows of the tables: [n, head_dim], or one set per sample, [batch, 1, n, head_dim].

    Attributes:
        partner: [head_dim], the other dimension of each dimension's pair; ``sin`` includes its sign.
    """

    cos: Tensor
    sin: Tensor
    partner: Tensor

    def apply(self, heads: Tensor) -> Tensor:
        """Rotate queries or keys [batch, heads, n, head_dim]."""
        return heads * self.cos + heads.index_select(-1, self.partner) * self.sin


class Rope(nn.Module):
    """Tables for ``positions`` [n, 3] and heads of ``head_dim`` (even) dimensions."""

    cos: Tensor
    sin: Tensor
    partner: Tensor

    def __init__(self, positions: Tensor, head_dim: int, pairing: Pairing) -> None:
        super().__init__()
        part = head_dim // 3 // 2 * 2
        omega = 1 / 10_000 ** (torch.arange(part // 2) / (part / 2))
        angles = positions[..., None] * omega
        angles = angles.repeat(1, 1, 2) if pairing == "tiled" else angles.repeat_interleave(2, dim=-1)
        angles = pad(angles.flatten(1), (0, head_dim - 3 * part))
        sign = torch.tensor([-1.0, 1.0]).repeat(head_dim // 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin() * sign, persistent=False)
        partner = torch.arange(head_dim).unflatten(0, (-1, 2)).flip(-1).flatten()
        self.register_buffer("partner", partner, persistent=False)

    def __len__(self) -> int:
        return len(self.cos)

    def first(self, count: int) -> Rotation:
        """Return the rotation of the first ``count`` tokens."""
        return Rotation(self.cos[:count], self.sin[:count], self.partner)

    def at(self, ids: Tensor) -> Rotation:
        """Return the rotation of the tokens ``ids``, [n] or [batch, n]."""
        cos, sin = (table[ids] if ids.ndim == 1 else table[ids][:, None] for table in (self.cos, self.sin))
        return Rotation(cos, sin, self.partner)


def grid_positions(frames: int, rows: int, columns: int | None = None, *, span: int | None = None) -> Tensor:
    """Return (frame, row, column) of each token of a clip, [frames * rows * columns, 3], frames outermost.

    Args:
        frames: Number of frames.
        rows: Rows of a frame.
        columns: Columns of a frame (None: as many as rows).
        span: Stretch rows and columns to the range of a grid of this side (V-JEPA 2.1: 16 or 18).
    """
    down, across = (torch.arange(float(count)) for count in (rows, columns or rows))
    if span is not None:
        down, across = (along * (span - 1) / (len(along) - 1) for along in (down, across))
    return torch.cartesian_prod(torch.arange(float(frames)), down, across)
