"""Self-supervised losses, each with its source.

All of them see frames and actions only. Distances between latents are squared Euclidean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrast(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE of ``anchors`` and ``positives`` [N, D] against ``negatives`` [M, D].

    InfoNCE: van den Oord et al. 2018, "Representation learning with contrastive predictive coding". The
    negatives are a queue of earlier batches (He et al. 2020, "Momentum contrast").
    """
    near = (anchors - positives).pow(2).sum(-1, keepdim=True)
    logits = -torch.cat([near, torch.cdist(anchors, negatives).pow(2)], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(anchors), dtype=torch.long))


def predictive_contrast(predicted: Tensor, arrived: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE over time: each prediction must identify its true latent among all frames of its layout.

    Only what the past and the action predict separates the frames of one layout, so the loss ignores light
    and noise and represents the robot.

    Args:
        predicted: [G, M, H, D] for frames 1 … H of each trajectory.
        arrived: Latents of all frames, [G, M, H+1, D].
        temperature: Divisor of the squared distances.
    """
    groups, runs, steps, dim = predicted.shape
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(
        predicted.reshape(groups, -1, dim), arrived.reshape(groups, -1, dim), compute_mode=exact
    )
    first = torch.arange(runs)[:, None] * (steps + 1)
    target = (first + torch.arange(1, steps + 1)).flatten().repeat(groups)
    return functional.cross_entropy(-distance.pow(2).flatten(0, 1) / temperature, target)


def spread(latents: Tensor) -> Tensor:
    """Return the hinge at 1 on the standard deviation of each dimension (VICReg, Bardes et al. 2022).

    Args:
        latents: [N, D], centered.
    """
    return functional.relu(1 - (latents.pow(2).mean(0) + 1e-4).sqrt()).mean()


def decorrelation(latents: Tensor) -> Tensor:
    """Return the mean squared covariance between the dimensions of ``latents`` [N, D] (VICReg)."""
    centered = latents - latents.mean(0)
    covariance = centered.T @ centered / (len(latents) - 1)
    return (covariance - torch.diag(torch.diag(covariance))).pow(2).sum() / latents.shape[1]
