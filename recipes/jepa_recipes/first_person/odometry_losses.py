"""What odometry teaches: the relative pose of two frames, and where tokens of one are found in the other.

Odometry is accurate over the few meters of a clip, and it is the only source of the targets here.

The relative pose alone is learned only after a long plateau: it depends on how far the tokens move in the
image, and nothing says which token is which, so that the search for matching tokens and what is computed
from the matches have to be learned at once. A turn on the spot resolves it. All things then move in the image
by an amount that follows from the angle alone, whatever their distance, so that odometry tells where each
token of the first frame must be found in the second one, or that it is out of view. After any other motion,
this depends on the distance as well, which the network reads from the image: it learns the distances that
agree with the motion and the matches, and the matches that agree with the motion and the distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_recipes.first_person.networks import (
    COLUMNS,
    DIRECTION,
    DISTANCE_OFFSET_M,
    HALF_WIDTH,
    HEADING,
    LOG_DISTANCE,
    LOG_SCALES,
    ROWS,
    TOKENS,
    token_positions,
)
from jepa_sim.worlds.first_person.rendering import CAMERA_AHEAD_M

# Nearer than this, the direction counts less: odometry measures it, but it hardly matters.
_DIRECTION_MATTERS_M = 0.3
MIN_LOG_SCALE, MAX_LOG_SCALE = -4.0, 2.0
# What is nearer along the axis of the camera, or behind it, is out of view.
_LEAST_DEPTH_M = 0.05
_LEAST_MASS = 1e-4


def relative_poses(origins: Tensor, poses: Tensor) -> Tensor:
    """Return ``poses`` in the frames of ``origins``: x forward, y to the left, heading, all [..., 3]."""
    change = poses - origins
    cos, sin = torch.cos(origins[..., 2]), torch.sin(origins[..., 2])
    x = change[..., 0] * cos + change[..., 1] * sin
    y = change[..., 1] * cos - change[..., 0] * sin
    return torch.stack([x, y, change[..., 2]], dim=-1)


def relative_pose_loss(read: Tensor, pose: Tensor) -> Tensor:
    """Return the mean loss of what was read [N, 8], given the relative poses [N, 3] by odometry.

    The sum over direction, log distance and heading of error / scale + log scale, with the scales that the
    head reports: the negative log likelihood of Laplace distributions up to a constant (Kendall and Gal 2017,
    "What uncertainties do we need in Bayesian deep learning for computer vision?"). At its optimum each scale
    is the expected error.
    """
    distance = torch.sqrt(pose[:, 0] ** 2 + pose[:, 1] ** 2 + 1e-8)
    direction = pose[:, :2] / distance[:, None]
    log_distance = torch.log(distance + DISTANCE_OFFSET_M)[:, None]
    heading = torch.stack([torch.cos(pose[:, 2]), torch.sin(pose[:, 2])], dim=-1)
    errors = reading_differences(read, torch.cat([direction, log_distance, heading], dim=-1))
    log_scales = clamped_log_scales(read)
    return weighted_reading_loss(errors * torch.exp(-log_scales) + log_scales, distance)


def reading_differences(read: Tensor, target: Tensor) -> Tensor:
    """Return by how much direction, log distance and heading [N, 3] differ between two readings."""
    return torch.stack(
        [
            _length(read[:, DIRECTION] - target[:, DIRECTION]),
            (read[:, LOG_DISTANCE] - target[:, LOG_DISTANCE]).abs(),
            _length(read[:, HEADING] - target[:, HEADING]),
        ],
        dim=-1,
    )


def clamped_log_scales(read: Tensor) -> Tensor:
    """Return the logarithms of the expected errors [N, 3] of a reading, within limits."""
    return read[:, LOG_SCALES].clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)


def weighted_reading_loss(losses: Tensor, distance: Tensor) -> Tensor:
    """Return the mean over pairs of the losses of direction, log distance and heading [N, 3].

    Args:
        losses: The losses.
        distance: Distance between the frames of each pair in m [N].
    """
    weight = (distance / _DIRECTION_MATTERS_M).clamp(max=1)
    return (losses[:, 0] * weight + losses[:, 1] + losses[:, 2]).mean()


@dataclass(frozen=True)
class Places:
    """Where things are seen in images.

    Attributes:
        places: Right and down, from -1 to 1 in the image [N, TOKENS, 2].
        visible: Whether they are in the image [N, TOKENS].
    """

    places: Tensor
    visible: Tensor

    def targets(self) -> Tensor:
        """Return the tokens that show them.

        Returns:
            Proportions [N, TOKENS, TOKENS + 1], which sum to 1: up to four tokens around the place; the last
            column is 1 if it is out of view.
        """
        right, down = self.places.unbind(-1)
        column, row = ((1 + right) * COLUMNS - 1) / 2, ((1 + down) * ROWS - 1) / 2
        near_row, near_column = _interpolation(row, ROWS), _interpolation(column, COLUMNS)
        found = (near_row[..., :, None] * near_column[..., None, :]).flatten(-2) * self.visible[..., None]
        return torch.cat([found, (~self.visible)[..., None].float()], dim=-1)


def project(points: Tensor, poses: Tensor) -> Places:
    """Return where the things that tokens show are seen in other images of the same place.

    Args:
        points: Where the things are in the frame of the robot [N, TOKENS, 2].
        poses: Poses of the robot at the other images in that frame [N, 3].
    """
    down = token_positions()[:, 1]
    cos, sin = torch.cos(poses[:, 2:]), torch.sin(poses[:, 2:])
    x, y = points[..., 0] - poses[:, :1], points[..., 1] - poses[:, 1:2]
    left, depth = y * cos - x * sin, x * cos + y * sin - CAMERA_AHEAD_M
    limited = depth.clamp(min=_LEAST_DEPTH_M)
    places = torch.stack(
        [-left / limited / HALF_WIDTH, down * (points[..., 0] - CAMERA_AHEAD_M) / limited], dim=-1
    )
    return Places(places, (depth > _LEAST_DEPTH_M) & (places.abs() < 1).all(-1))


def match_loss(matches: Tensor, points: Tensor, poses: Tensor) -> Tensor:
    """Return the loss of matches and of the points that tokens show, given the motion between the images.

    The cross entropy of the tokens in which points are seen teaches the matches. The distance in tokens
    between where a token is found, in the mean, and where its point is seen teaches both: the points are as
    far away as the motion implies.

    Args:
        matches: Logits [N, heads, TOKENS, TOKENS + 1].
        points: Where the things are that the tokens show, in the frame of the robot [N, TOKENS, 2].
        poses: Poses of the robot at the other images in that frame [N, 3].
    """
    seen = project(points, poses)
    entropy = -(seen.targets().detach()[:, None] * matches.log_softmax(-1)).sum(-1).mean()
    found = matches.softmax(-1)[..., :TOKENS]
    mass = found.sum(-1)
    where = found @ token_positions() / (mass[..., None] + _LEAST_MASS)
    apart = (where - seen.places[:, None]) * torch.tensor([COLUMNS / 2, ROWS / 2])
    weights = mass.detach() * seen.visible[:, None]
    return entropy + (weights * _length(apart)).sum() / (weights.sum() + _LEAST_MASS)


def _length(vector: Tensor) -> Tensor:
    return torch.sqrt(vector.pow(2).sum(-1) + 1e-6)


def _interpolation(index: Tensor, count: int) -> Tensor:
    """Return weights [..., count] of the entries next to fractional indices [...]."""
    apart = (index.clamp(0, count - 1)[..., None] - torch.arange(count)).abs()
    return (1 - apart).clamp(min=0)
