"""Self-supervised losses, each with its source.

All of them see frames and actions only. Distances between latents are squared Euclidean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrast(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, "Representation learning with contrastive predictive coding").

    anchors, positives [N, D]; negatives [M, D], as a queue of earlier batches (He et al. 2020, "Momentum
    contrast")."""
    near = (anchors - positives).pow(2).sum(-1, keepdim=True)
    logits = -torch.cat([near, torch.cdist(anchors, negatives).pow(2)], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(anchors), dtype=torch.long))


def predictive_contrast(predicted: Tensor, arrived: Tensor, temperature: float) -> Tensor:
    """InfoNCE over time: each prediction must pick the latent that really came among all frames of the same
    layout.

    predicted [G, M, H, D] for frames 1 … H of each trajectory; arrived [G, M, H+1, D]. Only what can be
    predicted from the past and the action separates frames of one layout, so light and noise are left out
    and the robot is found."""
    groups, runs, steps, dim = predicted.shape
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(
        predicted.reshape(groups, -1, dim), arrived.reshape(groups, -1, dim), compute_mode=exact
    )
    first = torch.arange(runs)[:, None] * (steps + 1)
    target = (first + torch.arange(1, steps + 1)).flatten().repeat(groups)
    return functional.cross_entropy(-distance.pow(2).flatten(0, 1) / temperature, target)


def spread(latents: Tensor) -> Tensor:
    """Hinge on the standard deviation of each dimension, at 1 (VICReg, Bardes et al. 2022). latents [N, D],
    centred.
    """
    return functional.relu(1 - (latents.pow(2).mean(0) + 1e-4).sqrt()).mean()


def decorrelation(latents: Tensor) -> Tensor:
    """Mean squared covariance between dimensions (VICReg). latents [N, D]."""
    centred = latents - latents.mean(0)
    covariance = centred.T @ centred / (len(latents) - 1)
    return (covariance - torch.diag(torch.diag(covariance))).pow(2).sum() / latents.shape[1]
