"""The rigid motion in the plane that fits pairs of points best, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RigidMotion:
    """Rotations, then translations, of N sets of points.

    Attributes:
        translation: [N, 2].
        rotation: Cosine and sine of the angle [N, 2].
        residual: Weighted mean of the squared distances that remain [N, 1].
        spread: How much the rotation is determined by the points: their weighted covariance [N, 1].
    """

    translation: Tensor
    rotation: Tensor
    residual: Tensor
    spread: Tensor


def fit_rigid_motion(points: Tensor, targets: Tensor, weights: Tensor) -> RigidMotion:
    """Return the motions of ``points`` to ``targets`` with the least weighted squares.

    Weighted orthogonal Procrustes analysis (Kabsch 1976, "A solution for the best rotation to relate two sets
    of vectors"), which in the plane needs no decomposition.

    Args:
        points: [N, P, 2].
        targets: [N, P, 2].
        weights: [N, P], each row sums to 1.
    """
    weights = weights[..., None]
    center, target = (weights * points).sum(1, keepdim=True), (weights * targets).sum(1, keepdim=True)
    x, y = (points - center).split(1, -1)
    u, v = (targets - target).split(1, -1)
    along, across = (weights * (x * u + y * v)).sum(1), (weights * (x * v - y * u)).sum(1)
    spread = torch.sqrt(along**2 + across**2 + 1e-6)
    cos, sin = along / spread, across / spread
    turned = _turned(x, y, cos[:, None], sin[:, None])
    residual = (weights * (targets - target - turned).pow(2).sum(-1, keepdim=True)).sum(1)
    moved = _turned(center[:, 0, :1], center[:, 0, 1:], cos, sin)
    return RigidMotion(target[:, 0] - moved, torch.cat([cos, sin], dim=-1), residual, spread)


def _turned(x: Tensor, y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.cat([cos * x - sin * y, sin * x + cos * y], dim=-1)
