"""The networks: a convolutional encoder, a residual predictor and a temporal-distance energy.

A frame becomes two tokens of :data:`LATENT_DIM`: token :data:`SCENE` represents what is static (the layout),
token :data:`ROBOT` what moves. The predictor copies the first and rolls out the second, which makes many
futures affordable.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS

LATENT_DIM = 16
SCENE, ROBOT = 0, 1
PIXEL_MEAN = (128.0, 128.0, 128.0)
PIXEL_STD = (64.0, 64.0, 64.0)


CHANNELS = 48


def convolution(channels_in: int, channels_out: int, size: int, stride: int) -> nn.Sequential:
    """Return a convolution with filters of ``size`` x ``size``, group normalization and GELU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, 1 if size == 3 else 0),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
    )


def stem() -> nn.Sequential:
    """Return the first layers: normalized pixels [N, 3, 128, 128] -> a map [N, CHANNELS, 16, 16]."""
    return nn.Sequential(convolution(3, 24, 4, 4), convolution(24, CHANNELS, 3, 2))


class Encoder(nn.Module):
    """Encoder of uint8 frames [N, 128, 128, 3] (RGB) to latents [N, 2, dim].

    The robot token is computed from a flattened feature map, through which the loss finds the robot within
    minutes, and from keypoints (spatial soft-argmax, Finn et al. 2016), which then locate it with subpixel
    accuracy. Batch normalization without affine parameters at the end fixes the scale of the distances in the
    losses.

    Args:
        trunk: Network from normalized pixels [N, 3, 128, 128] to the map [N, CHANNELS, 16, 16] that both
            tokens are computed from; None: convolutions.
        affine: Use affine batch normalization, for an encoder that learns the latents of another.
    """

    grid: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module | None = None, *, affine: bool = False) -> None:
        super().__init__()
        dim = LATENT_DIM
        self.trunk = trunk or nn.Sequential(stem(), convolution(CHANNELS, CHANNELS, 3, 1))
        self.heatmaps = nn.Conv2d(CHANNELS, 16, 1)
        self.where = nn.Sequential(nn.Conv2d(CHANNELS, 8, 1), nn.Flatten(), nn.Linear(8 * 16 * 16, 64))
        self.robot = nn.Sequential(
            nn.Linear(2 * 16 + 64, 64), nn.GELU(), nn.Linear(64, dim), nn.BatchNorm1d(dim, affine=affine)
        )
        self.scene = nn.Sequential(
            convolution(CHANNELS, 64, 3, 2),
            nn.Conv2d(64, 16, 1),
            nn.Flatten(),
            nn.Linear(16 * 8 * 8, 128),
            nn.GELU(),
            nn.Linear(128, dim),
            nn.BatchNorm1d(dim, affine=affine),
        )
        centers = (torch.arange(16) + 0.5) / 4 - 2
        grid = torch.stack([centers.repeat(16), centers.repeat_interleave(16)], dim=1)
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def features(self, frame: Tensor) -> Tensor:
        """Return the map that both tokens are computed from: [N, 128, 128, 3] -> [N, CHANNELS, 16, 16]."""
        pixels = frame.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.trunk((pixels.float() - self.mean) / self.std)
        return out

    def forward(self, frame: Tensor) -> Tensor:
        features = self.features(frame)
        attention = (4 * self.heatmaps(features)).flatten(2).softmax(-1)
        keypoints = (attention @ self.grid).flatten(1)
        robot = self.robot(torch.cat([keypoints, self.where(features)], dim=1))
        return torch.stack([self.scene(features), robot], dim=1)


class RobotPredictor(Protocol):
    """A predictor of the token :data:`ROBOT`."""

    def rollout(self, scene: Tensor, robot: Tensor, actions: Tensor) -> Tensor:
        """Return the robot tokens [N, H, dim] after each of ``actions`` [N, H, 2]."""
        ...


class Predictor(nn.Module):
    """Predictor of the token :data:`ROBOT` one step ahead: robot' = robot + MLP(robot, scene, action)."""

    def __init__(self, dim: int = LATENT_DIM, width: int = 256, *, top_speed: float = MAX_SPEED_MPS) -> None:
        super().__init__()
        self.top_speed = top_speed
        self.from_robot = nn.Linear(dim, width)
        self.from_scene = nn.Linear(dim, width, bias=False)
        self.from_action = nn.Linear(2, width, bias=False)
        self.body = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim))
        last = self.body[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def rollout(self, scene: Tensor, robot: Tensor, actions: Tensor) -> Tensor:
        """Return the robot tokens [N, H, dim] after each of ``actions`` [N, H, 2].

        The contributions of ``scene`` [N or 1, dim] and of the actions are computed once for all steps;
        ``robot`` is [N or 1, dim].
        """
        drive = self.from_scene(scene)[:, None] + self.from_action(actions / self.top_speed)
        steps = []
        for step in range(actions.shape[1]):
            robot = robot + self.body(self.from_robot(robot) + drive[:, step])
            steps.append(robot)
        return torch.stack(steps, dim=1)

    def forward(self, history_latents: Tensor, actions: Tensor) -> Tensor:
        """Predict futures, see :func:`predict_futures`."""
        return predict_futures(self, history_latents, actions)


class ActionPrefixPredictor(nn.Module):
    """Predictor of the token :data:`ROBOT` after every prefix of the actions, in one call.

    The steps of a sequence are computed in parallel (Fast-LeWM, arXiv:2606.26217): a step is a function of
    the latent and of the actions up to it, which two causal layers combine. As the first layer is linear in
    the actions, it costs little more than a sum over them.
    """

    causal: Tensor

    def __init__(
        self,
        horizon: int,
        dim: int = LATENT_DIM,
        width: int = 128,
        *,
        top_speed: float = MAX_SPEED_MPS,
    ) -> None:
        super().__init__()
        self.horizon, self.top_speed = horizon, top_speed
        self.from_latent = nn.Linear(2 * dim, width)
        self.from_actions = nn.Linear(2 * horizon, horizon * width)
        self.before = nn.Linear(width, width)
        self.over_steps = nn.Parameter(torch.ones(horizon, horizon) / horizon)
        self.after = nn.Linear(width, width)
        self.out = nn.Linear(width, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("causal", torch.ones(horizon, horizon).tril(), persistent=False)

    def rollout(self, scene: Tensor, robot: Tensor, actions: Tensor) -> Tensor:
        """Return the robot tokens [N, H, dim] after each of ``actions`` [N, H, 2].

        ``scene`` and ``robot`` are [N or 1, dim].
        """
        width = self.out.in_features
        mask = self.causal.repeat_interleave(width, 0).repeat_interleave(2, 1)
        weight = self.from_actions.weight * mask
        scaled = (actions / self.top_speed).flatten(1)
        prefixes = functional.linear(scaled, weight, self.from_actions.bias)
        state = self.from_latent(torch.cat([scene, robot], dim=-1))[:, None]
        # Other functions would make the number of candidates a constant of the exported graph.
        prefixes = prefixes.reshape(-1, self.horizon, width)
        steps = functional.gelu(self.before(functional.gelu(prefixes + state)))
        steps = (self.over_steps * self.causal) @ steps
        moved: Tensor = self.out(functional.gelu(self.after(steps)))
        return robot[:, None] + moved

    def forward(self, history_latents: Tensor, actions: Tensor) -> Tensor:
        """Predict futures, see :class:`Predictor`."""
        return predict_futures(self, history_latents, actions)


def predict_futures(predictor: RobotPredictor, history_latents: Tensor, actions: Tensor) -> Tensor:
    """Predict futures [K, H, 2, dim] from [1, 1, 2, dim] and [K, H, 2]: the exported graph."""
    latent = history_latents[0]
    robot = predictor.rollout(latent[:, SCENE], latent[:, ROBOT], actions)
    scene = latent[:, None, SCENE].expand(robot.shape)
    return torch.stack([scene, robot], dim=2)


class InverseDynamics(nn.Module):
    """Estimate of the action (unit: top speed) between two robot tokens [N, dim], for training only."""

    def __init__(self, dim: int = LATENT_DIM) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * dim, 128), nn.GELU(), nn.Linear(128, 2))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([before, after], dim=-1))
        return out


class JointEstimate(nn.Module):
    """Estimate of the cosines and sines of joint angles from robot tokens [..., dim], for training only.

    It is linear, so equal turns of a joint move the token about equally far.
    """

    def __init__(self, joints: int, dim: int = LATENT_DIM) -> None:
        super().__init__()
        self.out = nn.Linear(dim, 2 * joints)

    def forward(self, robot: Tensor) -> Tensor:
        estimate: Tensor = self.out(robot)
        return estimate


class Energy(nn.Module):
    """Steps at top speed from a latent to a goal latent: [N, 2, dim], [1 or N, 2, dim] -> [N]."""

    def __init__(self, dim: int = LATENT_DIM, width: int = 192) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3 * dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def between(self, scene: Tensor, robot: Tensor, goal_robot: Tensor) -> Tensor:
        """Return the steps [...] between tokens [..., dim]."""
        steps: Tensor = self.net(torch.cat([scene, robot, goal_robot], dim=-1))
        return functional.softplus(steps[..., 0])

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        goal_robot = goal[:, ROBOT].expand(latents.shape[0], -1)
        return self.between(latents[:, SCENE], latents[:, ROBOT], goal_robot)
