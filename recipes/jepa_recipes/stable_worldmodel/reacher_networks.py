"""The networks of Reacher: an encoder of the arm's pose, a predictor that reads motion, and an energy.

A frame becomes one token of :data:`LATENT_DIM`, from which the angles of the joints can be read linearly. A
token shows no velocity, so the predictor gets the last :data:`HISTORY` of them and the torques between.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_recipes.two_token.networks import CHANNELS, LATENT_DIM, JointEstimate, convolution, stem
from jepa_recipes.two_token.vit_trunk import supports_bf16

HISTORY, JOINTS = 3, 2
_WIDTH = 384


class ArmEncoder(nn.Module):
    """Encoder of normalized pixels [N, 3, 128, 128] to latents [N, 1, LATENT_DIM].

    The map is flattened, not pooled: angles are read from where things are. Batch normalization without
    affine parameters fixes the scale of the latents.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            stem(), convolution(CHANNELS, CHANNELS, 3, 1), convolution(CHANNELS, CHANNELS, 3, 1)
        )
        self.pose = nn.Sequential(
            nn.Conv2d(CHANNELS, 16, 1),
            nn.Flatten(),
            nn.Linear(16 * 16 * 16, 256),
            nn.GELU(),
            nn.Linear(256, LATENT_DIM),
            nn.BatchNorm1d(LATENT_DIM, affine=False),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training and supports_bf16()):
            features = self.trunk(pixels)
        latents: Tensor = self.pose(features.float())
        return latents[:, None]


class ArmPredictor(nn.Module):
    """Predictor of the next latent [K, 1, dim] from latents [K, HISTORY, 1, dim] and torques [K, HISTORY, 2].

    The last torques are in force from the newest latent on.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = HISTORY * (LATENT_DIM + JOINTS)
        for _ in range(3):
            layers += [nn.Linear(size, _WIDTH), nn.LayerNorm(_WIDTH), nn.GELU()]
            size = _WIDTH
        last = nn.Linear(size, LATENT_DIM)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(*layers, last)

    def forward(self, latents: Tensor, torques: Tensor) -> Tensor:
        moved: Tensor = self.body(torch.cat([latents.flatten(1), torques.flatten(1)], dim=1))
        return latents[:, -1] + moved[:, None]


class ArmEnergy(nn.Module):
    """Squared distance of the cosines and sines of all joints: latents [N, 1, dim], goal [1, 1, dim] -> [N].

    For small distances, it is the squared distance of the angles.
    """

    def __init__(self, joints: JointEstimate) -> None:
        super().__init__()
        self.joints = joints

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        squared: Tensor = (self.joints(latents) - self.joints(goal)).square()
        return squared.sum(dim=(1, 2))


def angles(estimate: Tensor) -> Tensor:
    """Return the joint angles [..., JOINTS] of cosines and sines [..., 2 * JOINTS]."""
    cosines, sines = estimate.chunk(2, dim=-1)
    return torch.atan2(sines, cosines)
