"""Normalization of camera frames to the input that all teachers read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD


def normalize(frames: Tensor) -> Tensor:
    """Normalize uint8 RGB [..., H, W, 3] with the ImageNet statistics to float32 [..., 3, H, W]."""
    mean, std = (torch.tensor(values, device=frames.device) for values in (PIXEL_MEAN, PIXEL_STD))
    return ((frames - mean) / std).movedim(-1, -3)


class PixelNormalization(nn.Module):
    """The part of a graph that normalizes uint8 RGB [n, H, W, 3] to float32 [n, 3, H, W].

    The result is that of :func:`normalize`, whose movedim is exported with an axis that ONNX rejects.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        pixels: Tensor = (frames.float() - self.mean) / self.std
        return pixels.permute(0, 3, 1, 2)
