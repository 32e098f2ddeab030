"""From frames as cameras give them to the numbers that all teachers read."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD


def normalised(frames: Tensor) -> Tensor:
    """uint8 RGB [..., H, W, 3] -> float32 [..., 3, H, W] by the mean and standard deviation of ImageNet."""
    mean, std = (torch.tensor(values, device=frames.device) for values in (PIXEL_MEAN, PIXEL_STD))
    return ((frames - mean) / std).movedim(-1, -3)
