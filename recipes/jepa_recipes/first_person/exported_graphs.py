"""The networks with the inputs and outputs that graphs of a bundle have.

What the head reads becomes a pose in meters and radians, and an energy: the time in seconds that the robot
needs to drive there, and to make up for the expected errors of the reading. It is high where the two images
show nothing in common, because the head then expects large errors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_recipes.first_person.networks import (
    DIRECTION,
    DISTANCE_OFFSET_M,
    HEADING,
    LOG_DISTANCE,
    LOG_SCALES,
    ActionPredictor,
    RelativePoseHead,
)
from jepa_recipes.first_person.odometry_losses import MAX_LOG_SCALE, MIN_LOG_SCALE

# Limits the distance to 20 m, far beyond that of any pair in training: a photo of anything has a finite one.
_MAX_LOG_DISTANCE = 3.0
# Speeds at which the robot drives and turns: with these, the tolerances of the levels, 0.3 m and 20 degrees,
# take the same time.
_SPEED_MPS, _TURN_RADPS = 0.6, 0.7
# From about this distance on, the turn to the goal and the one at the goal count. Nearer, the difference of
# the headings counts: there, the direction of the goal says little about whether it is reached.
_FAR_M = 1.0


class _Reading:
    """What the head read from N pairs, in meters and radians.

    Args:
        read: Outputs of the head [N, 8].

    Attributes:
        direction: Unit vectors to the second pose [N, 2].
        distance: Distance to it [N].
        heading: Unit vectors of its heading [N, 2].
        position_error: Expected error of the position [N].
        yaw_error: Expected error of the heading [N].
    """

    def __init__(self, read: Tensor) -> None:
        limited = read[:, LOG_DISTANCE].clamp(max=_MAX_LOG_DISTANCE).exp()
        scales = read[:, LOG_SCALES].clamp(MIN_LOG_SCALE, MAX_LOG_SCALE).exp()
        self.direction, self.heading = _unit(read[:, DIRECTION]), _unit(read[:, HEADING])
        self.distance = (limited - DISTANCE_OFFSET_M).clamp(min=0)
        along = scales[:, 1] * (self.distance + DISTANCE_OFFSET_M)
        across = scales[:, 0] * self.distance
        self.position_error = torch.sqrt(along**2 + across**2)
        self.yaw_error = scales[:, 2]


def _read(head: RelativePoseHead, latents: Tensor, goal: Tensor) -> Tensor:
    """Return what ``head`` reads from each latent and the one goal [N, 8]."""
    # Intel's NPU compiler rejects products of N latents and one goal.
    read: Tensor = head(latents, goal.expand_as(latents))
    return read


class RelativePoseGraph(nn.Module):
    """The graph ``relative_pose``."""

    def __init__(self, head: RelativePoseHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Return the pose of the goal in the frame of each latent.

        Args:
            latents: [N, TOKENS, dim].
            goal: [1, TOKENS, dim].

        Returns:
            [N, 5]: x and y in m, yaw in rad, and the expected errors of position in m and of yaw in rad.
        """
        reading = _Reading(_read(self.head, latents, goal))
        position = reading.distance[:, None] * reading.direction
        yaw = torch.atan2(reading.heading[:, 1], reading.heading[:, 0])
        rest = torch.stack([yaw, reading.position_error, reading.yaw_error], dim=1)
        return torch.cat([position, rest], dim=1)


class EnergyGraph(nn.Module):
    """The graph ``energy``."""

    ahead: Tensor

    def __init__(self, head: RelativePoseHead) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("ahead", torch.tensor([[1.0, 0.0]]), persistent=False)

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Return the time in s from each latent [N, TOKENS, dim] to the goal [1, TOKENS, dim], as [N]."""
        reading = _Reading(_read(self.head, latents, goal))
        fourth = reading.distance**4
        far = fourth / (fourth + _FAR_M**4)
        turned_twice = _angle(reading.direction, self.ahead) + _angle(reading.heading, reading.direction)
        turned_once = _angle(reading.heading, self.ahead)
        turned = far * turned_twice + (1 - far) * turned_once
        driven = reading.distance + reading.position_error
        return driven / _SPEED_MPS + (turned + reading.yaw_error) / _TURN_RADPS


class PredictorGraph(nn.Module):
    """The graph ``predictor``."""

    def __init__(self, predictor: ActionPredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """Predict K futures of H steps.

        Args:
            history_latents: [1, 2, TOKENS, dim], oldest first; only the newest is read.
            actions: [K, H, 2], the first executed after the newest latent.
            history_actions: [1, 1, 2], executed between the two latents.

        Returns:
            [K, H, TOKENS, dim].
        """
        assert history_actions is not None
        latent, action = history_latents[:, -1], history_actions[:, -1].expand_as(actions[:, 0])
        futures = []
        for following in actions.unbind(1):
            latent = self.predictor(latent, action, following)
            action = following
            futures.append(latent)
        return torch.stack(futures, dim=1)


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """Return the angles between unit vectors [N, 2], from their chords: exact where the angle is small."""
    chord = torch.sqrt((one - other).pow(2).sum(-1))
    return 2 * torch.asin((chord / 2).clamp(max=1))
