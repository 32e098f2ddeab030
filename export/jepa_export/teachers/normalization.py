"""Normalization of camera frames to the input that all teachers read."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD


def normalize(frames: Tensor) -> Tensor:
    """Normalize uint8 RGB [..., H, W, 3] with the ImageNet statistics to float32 [..., 3, H, W]."""
    mean, std = (torch.tensor(values, device=frames.device) for values in (PIXEL_MEAN, PIXEL_STD))
    return ((frames - mean) / std).movedim(-1, -3)
