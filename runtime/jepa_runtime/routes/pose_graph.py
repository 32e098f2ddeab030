"""Relaxation of a pose graph: poses that agree best with measured poses between them, by Gauss-Newton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.poses import Pose, wrap_all

_ITERATIONS = 12
_CONVERGED = 1e-4
# Normalized square error from which a measurement counts less.
_OUTLIER = 4.0
# Information of the first pose, which stays where it is.
_FIXED = 1e9
# Damping of the normal equations.
_DAMPING = 1e-6


@dataclass(frozen=True, eq=False)
class Measurement:
    """The pose of one node in the frame of another one, as it was measured.

    Attributes:
        first: The node in whose frame the pose is.
        second: The other node.
        pose: The pose [3]: x [m], y [m], yaw [rad].
        position_std_m: Standard deviation of x and of y.
        yaw_std_rad: Standard deviation of the yaw.
    """

    first: int
    second: int
    pose: Pose
    position_std_m: float
    yaw_std_rad: float


def relax(poses: Pose, measurements: Sequence[Measurement]) -> Pose:
    """Return the poses [N, 3] that agree best with the measurements. The first one stays where it is.

    A measurement that contradicts the others counts less.

    Args:
        poses: Poses to begin with [N, 3].
        measurements: Measured poses, which connect all nodes.
    """
    first, second = (np.array([getattr(each, name) for each in measurements]) for name in ("first", "second"))
    measured = np.stack([each.pose for each in measurements])
    std = np.array([[each.position_std_m] * 2 + [each.yaw_std_rad] for each in measurements])
    relaxed: Pose = poses.astype(np.float64)
    for _ in range(_ITERATIONS):
        residuals, by_first, by_second = _linearized(relaxed, first, second, measured)
        information = 1 / std**2
        squares = (information * residuals**2).sum(axis=1)
        information = information / np.maximum(squares / _OUTLIER, 1.0)[:, None]
        step = _solve(len(poses), (first, second), (by_first, by_second), information, residuals)
        relaxed = relaxed + step
        if np.abs(step).max() < _CONVERGED:
            break
    relaxed[:, 2] = wrap_all(relaxed[:, 2])
    return relaxed


def _linearized(
    poses: Pose, first: NDArray[np.int64], second: NDArray[np.int64], measured: Pose
) -> tuple[Pose, Pose, Pose]:
    """Return the residuals [E, 3], and their derivatives [E, 3, 3] by the poses of both nodes."""
    cos, sin = np.cos(poses[first, 2]), np.sin(poses[first, 2])
    dx, dy = (poses[second, :2] - poses[first, :2]).T
    x, y = cos * dx + sin * dy, -sin * dx + cos * dy
    turn = poses[second, 2] - poses[first, 2] - measured[:, 2]
    residuals = np.stack([x - measured[:, 0], y - measured[:, 1], wrap_all(turn)], axis=1)
    by_second = np.zeros((len(first), 3, 3))
    by_second[:, 0, 0] = by_second[:, 1, 1] = cos
    by_second[:, 0, 1], by_second[:, 1, 0] = sin, -sin
    by_second[:, 2, 2] = 1.0
    by_first = -by_second
    by_first[:, 0, 2], by_first[:, 1, 2] = y, -x
    return residuals, by_first, by_second


def _solve(
    count: int,
    nodes: tuple[NDArray[np.int64], NDArray[np.int64]],
    derivatives: tuple[Pose, Pose],
    information: Pose,
    residuals: Pose,
) -> Pose:
    """Return the step [N, 3] of Gauss-Newton."""
    normal, gradient = np.zeros((count, 3, count, 3)), np.zeros((count, 3))
    for one, by_one in zip(nodes, derivatives, strict=True):
        weighted = by_one * information[:, :, None]
        np.add.at(gradient, one, np.einsum("eij,ei->ej", weighted, residuals))
        for other, by_other in zip(nodes, derivatives, strict=True):
            blocks = np.einsum("eki,ekj->eij", weighted, by_other)
            np.add.at(normal.transpose(0, 2, 1, 3), (one, other), blocks)
    normal[0, :, 0] += _FIXED * np.eye(3)
    matrix = normal.reshape(3 * count, 3 * count)
    matrix[np.diag_indices(3 * count)] += _DAMPING
    solution = np.linalg.solve(matrix, gradient.reshape(-1))
    return -np.asarray(solution, np.float64).reshape(count, 3)
