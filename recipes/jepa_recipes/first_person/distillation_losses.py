"""What a teacher teaches: its latents, its readings, and its rollouts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jepa_recipes.first_person.networks import DISTANCE_OFFSET_M, LOG_DISTANCE
from jepa_recipes.first_person.odometry_losses import (
    clamped_log_scales,
    reading_differences,
    weighted_reading_loss,
)


def latent_loss(reconstructed: Tensor, latents: Tensor) -> Tensor:
    """Return smooth L1 plus cosine distance of the teacher's latents [..., dim] and their reconstruction."""
    cosine = functional.cosine_similarity(reconstructed, latents, dim=-1)
    return functional.smooth_l1_loss(reconstructed, latents) + 1 - cosine.mean()


def reading_loss(read: Tensor, taught: Tensor) -> Tensor:
    """Return the mean loss of what was read [N, 8], given what the teacher read from the same pairs.

    The Kullback-Leibler divergence of the student's Laplace distribution from the teacher's, for direction,
    log distance and heading: zero where value and expected error are equal. Where the teacher expects large
    errors, a difference of the values counts little.
    """
    difference = reading_differences(read, taught)
    log_scale, taught_log_scale = clamped_log_scales(read), clamped_log_scales(taught)
    taught_scale = taught_log_scale.exp()
    expected = taught_scale * torch.exp(-difference / taught_scale) + difference
    losses = log_scale - taught_log_scale + expected * torch.exp(-log_scale) - 1
    distance = (taught[:, LOG_DISTANCE].exp() - DISTANCE_OFFSET_M).clamp(min=0)
    return weighted_reading_loss(losses, distance)
