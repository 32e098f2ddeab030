"""The demo's world model: a convolutional encoder, a residual predictor and a temporal-distance energy.

A frame becomes two tokens of :data:`LATENT_DIM`: token :data:`SCENE` holds what stays (the layout), token
:data:`ROBOT` what moves. The predictor copies the first and rolls the second forward; that keeps many
futures affordable."""

from __future__ import annotations

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
    """A convolution with filters of ``size`` x ``size``, group normalisation and GELU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, 1 if size == 3 else 0),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
    )


def stem() -> nn.Sequential:
    """Normalised pixels [N, 3, 128, 128] -> a first map [N, CHANNELS, 16, 16]."""
    return nn.Sequential(convolution(3, 24, 4, 4), convolution(24, CHANNELS, 3, 2))


class Encoder(nn.Module):
    """uint8 frames [N, 128, 128, 3] (RGB) -> latents [N, 2, dim].

    The robot token is read both from a flattened feature map, which shows the robot to the loss within
    minutes, and from keypoints (spatial soft-argmax, Finn et al. 2016), which then place it below a pixel.
    Batch normalisation without affine at the end fixes the scale that the losses compare distances at.

    Args:
        trunk: normalised pixels [N, 3, 128, 128] -> the map [N, CHANNELS, 16, 16] that both tokens are read
            from; None: convolutions.
        affine: let the batch normalisation scale: of one that learns the latents of another.
    """

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
        centres = (torch.arange(16) + 0.5) / 4 - 2
        grid = torch.stack([centres.repeat(16), centres.repeat_interleave(16)], dim=1)
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def features(self, frame: Tensor) -> Tensor:
        """The map that both tokens are read from: [N, 128, 128, 3] -> [N, CHANNELS, 16, 16]."""
        pixels = frame.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.trunk((pixels.float() - self.mean) / self.std)
        return out

    def forward(self, frame: Tensor) -> Tensor:
        features = self.features(frame)
        attention = (4 * self.heatmaps(features)).flatten(2).softmax(-1)
        keypoints = (attention @ self.grid).flatten(1)
        robot = self.robot(torch.cat([keypoints, self.where(features)], dim=1))
        return torch.stack([self.scene(features), robot], dim=1)


class Predictor(nn.Module):
    """One step of :data:`ROBOT`: robot' = robot + MLP(robot, scene, action), action held for one
    step.
    """

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
        """Robot tokens [N, H, dim] after each of ``actions`` [N, H, 2]; ``scene`` and ``robot`` are [N or
        1, dim]. What the scene and the actions contribute is computed once for all steps."""
        drive = self.from_scene(scene)[:, None] + self.from_action(actions / self.top_speed)
        steps = []
        for step in range(actions.shape[1]):
            robot = robot + self.body(self.from_robot(robot) + drive[:, step])
            steps.append(robot)
        return torch.stack(steps, dim=1)

    def forward(self, history_latents: Tensor, actions: Tensor) -> Tensor:
        """The graph that is exported: [1, 1, 2, dim] and [K, H, 2] -> futures [K, H, 2, dim]."""
        latent = history_latents[0]
        robot = self.rollout(latent[:, SCENE], latent[:, ROBOT], actions)
        scene = latent[:, None, SCENE].expand(robot.shape)
        return torch.stack([scene, robot], dim=2)


class InverseDynamics(nn.Module):
    """The action (in units of the top speed) between two robot tokens [N, dim]; used in training only."""

    def __init__(self, dim: int = LATENT_DIM) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * dim, 128), nn.GELU(), nn.Linear(128, 2))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([before, after], dim=-1))
        return out


class Energy(nn.Module):
    """Steps at top speed from a latent to a goal latent, around the wall: [N, 2, dim], [1 or N, 2, dim] ->
    [N].
    """

    def __init__(self, dim: int = LATENT_DIM, width: int = 192) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3 * dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def between(self, scene: Tensor, robot: Tensor, goal_robot: Tensor) -> Tensor:
        """[..., dim] each -> steps [...]."""
        steps: Tensor = self.net(torch.cat([scene, robot, goal_robot], dim=-1))
        return functional.softplus(steps[..., 0])

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        goal_robot = goal[:, ROBOT].expand(latents.shape[0], -1)
        return self.between(latents[:, SCENE], latents[:, ROBOT], goal_robot)
