"""Accuracy of a trained model on recordings of layouts that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_export.bundling.manifest_fields import ERROR_QUANTILE, FALSE_ALARM_RATE
from jepa_export.data.two_rooms_recordings import Recordings
from jepa_recipes.two_token.networks import ROBOT, SCENE, Encoder, Energy, JointEstimate, RobotPredictor

ARRIVALS = 0.98
HALF_STEP = 0.5


@dataclass(frozen=True)
class WorldMetrics:
    """Accuracy of predictions; lists are over prediction steps 1 … H.

    Attributes:
        error_m: Mean distance between the position read from the predicted latent and the true one.
        copy_last_m: The same for a model that predicts no motion.
        error_bounds: 90 % quantile of the norm of predicted minus encoded latent.
        surprise_threshold: One-step root mean squared error that 0.1 % of normal frames exceed.
        probe_m: Mean error of a linear map from the robot token to the position.
    """

    error_m: list[float]
    copy_last_m: list[float]
    error_bounds: list[float]
    surprise_threshold: float
    probe_m: float


@torch.no_grad()
def measure(
    encoder: nn.Module, predictor: RobotPredictor, held_out: Recordings, horizon: int
) -> WorldMetrics:
    """Evaluate ``predictor`` over the first ``horizon`` steps of each held-out trajectory."""
    frames = torch.from_numpy(held_out.frames)
    encoded = torch.cat([encoder(run) for run in frames.flatten(0, 1)]).unflatten(0, frames.shape[:3])
    positions = torch.from_numpy(held_out.positions)
    probe = _PositionProbe(encoded[..., ROBOT, :], positions)
    latents, positions = encoded.flatten(0, 1), positions.flatten(0, 1)
    actions = torch.from_numpy(held_out.actions).flatten(0, 1)
    predicted = predictor.rollout(latents[:, 0, SCENE], latents[:, 0, ROBOT], actions[:, :horizon])
    true = positions[:, 1 : horizon + 1]
    arrived = latents[:, 1 : horizon + 1]
    robot_error = (predicted - arrived[:, :, ROBOT]).pow(2).sum(-1)
    scene_error = (latents[:, :1, SCENE] - arrived[:, :, SCENE]).pow(2).sum(-1)
    total = robot_error + scene_error
    one_step = (total[:, 0] / (2 * predicted.shape[-1])).sqrt()
    return WorldMetrics(
        error_m=(probe.read(predicted) - true).norm(dim=-1).mean(0).tolist(),
        copy_last_m=(positions[:, :1] - true).norm(dim=-1).mean(0).tolist(),
        error_bounds=total.sqrt().quantile(ERROR_QUANTILE, dim=0).tolist(),
        surprise_threshold=float(one_step.quantile(1 - FALSE_ALARM_RATE)),
        probe_m=probe.error_m,
    )


@torch.no_grad()
def joint_r2(encoder: nn.Module, joints: JointEstimate, held_out: Recordings) -> list[float]:
    """Return the coefficient of determination of each joint angle's cosine and sine together."""
    assert held_out.joints is not None
    frames = torch.from_numpy(held_out.frames).flatten(0, 2)
    robot = torch.cat([encoder(chunk)[:, ROBOT] for chunk in frames.split(64)])
    angles = torch.from_numpy(held_out.joints).flatten(0, 2)
    true = torch.stack([angles.cos(), angles.sin()])
    error = joints(robot).unflatten(1, (2, -1)).transpose(0, 1) - true
    spread = true - true.mean(dim=1, keepdim=True)
    found: list[float] = (1 - error.pow(2).sum((0, 1)) / spread.pow(2).sum((0, 1))).tolist()
    return found


@torch.no_grad()
def goal_threshold(encoder: Encoder, energy: Energy, standing: Recordings) -> float:
    """Return the energy below which a goal counts as reached.

    It is half a step at top speed, or the energy that two images of one place in two lights stay below in 98
    % of ``standing``, whichever is larger.
    """
    frames = torch.from_numpy(standing.frames).flatten(0, 1)
    here, there = (encoder(frames[:, index].contiguous()) for index in (0, 1))
    return max(HALF_STEP, float(energy(here, there).quantile(ARRIVALS)))


class _PositionProbe:
    """Least squares from robot token to position, fitted on half of the layouts, evaluated on the others."""

    def __init__(self, tokens: Tensor, positions: Tensor) -> None:
        half = len(tokens) // 2
        self._weights = torch.linalg.lstsq(_affine(tokens[:half]), positions[:half].reshape(-1, 2)).solution
        self.error_m = float((self.read(tokens[half:]) - positions[half:]).norm(dim=-1).mean())

    def read(self, tokens: Tensor) -> Tensor:
        """Return the positions [..., 2] in meters of robot tokens [..., D]."""
        positions: Tensor = _affine(tokens) @ self._weights
        return positions.reshape(*tokens.shape[:-1], 2)


def _affine(tokens: Tensor) -> Tensor:
    flat = tokens.reshape(-1, tokens.shape[-1])
    return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
