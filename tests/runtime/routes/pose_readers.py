"""Tours whose latents are poses, and a reader of relative poses that is certain of what is near."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.routes.manifest import RouteModel
from jepa_runtime.routes.route import Floats, KeyFrame, Route
from jepa_runtime.util.poses import Pose, compose, relative
from tests.runtime.routes.drives import MODEL

POSE_MODEL: RouteModel = MODEL.model_copy(update={"dim": 3})
STEP_S = 0.5


def latent_of(pose: Pose) -> Floats:
    return np.asarray(pose, np.float32).reshape(1, 3)


class PoseReader:
    """Reads the poses that latents state, with an error that is the same whenever it reads the same pair.

    Args:
        noise_m: Standard deviation of positions; that of yaws is half of it [rad].
        aliased: The images at these two positions look alike.
    """

    def __init__(self, noise_m: float = 0.0, *, aliased: tuple[Pose, Pose] | None = None) -> None:
        self._noise_m, self._aliased = noise_m, aliased

    def relative_poses(self, latents: Floats, goal: Floats) -> Floats:
        found = [self._read(each.reshape(3), goal.reshape(3)) for each in latents.reshape(-1, 1, 3)]
        return np.array(found, np.float32).reshape(*latents.shape[:-2], 5)

    def _read(self, origin: Floats, pose: Floats) -> NDArray[np.float64]:
        read = relative(self._seen(origin), self._seen(pose))
        if math.hypot(read[0], read[1]) > 2.5 or abs(read[2]) > 1.2:
            return np.array([0.5, 0.0, 0.0, 3.0, 1.0])
        seed = abs(hash((*origin.tolist(), *pose.tolist())))
        read += np.random.default_rng(seed).normal(0, self._noise_m, 3) * (1.0, 1.0, 0.5)
        return np.array([*read, max(self._noise_m, 0.03), max(self._noise_m / 2, 0.02)])

    def _seen(self, latent: Floats) -> Pose:
        pose: Pose = latent.astype(np.float64)
        if self._aliased is not None and math.dist(pose[:2], self._aliased[0][:2]) < 0.6:
            pose[:2] += self._aliased[1][:2] - self._aliased[0][:2]
        return pose


def square_tour(side_m: float = 4.0) -> Pose:
    """Return true poses along a square, with a full turn at its first corner, back to the first corner."""
    poses = [np.array([0.0, 0.0, angle]) for angle in np.arange(0.0, 2 * np.pi, 0.5)]
    for corner in range(4):
        heading = corner * np.pi / 2
        start = poses[-1][:2] if corner else np.zeros(2)
        direction = np.array([math.cos(heading), math.sin(heading)])
        poses += [
            np.array([*(start + length * direction), heading]) for length in np.arange(0.25, side_m, 0.25)
        ]
        poses.append(np.array([*(start + side_m * direction), heading + np.pi / 4]))
    return np.stack(poses)


def drifted(poses: Pose, *, scale: float = 1.03, turn_scale: float = 1.03) -> Pose:
    """Return the odometry of a tour whose lengths and turns are measured too large."""
    found = [poses[0]]
    for before, after in pairwise(poses):
        x, y, turn = relative(before, after)
        found.append(compose(found[-1], np.array([scale * x, scale * y, turn_scale * turn])))
    return np.stack(found)


def tour_of(poses: Pose, odometry: Pose | None = None) -> Route:
    """Return the route of a tour."""
    odometry = poses if odometry is None else odometry
    frames = tuple(
        KeyFrame(
            time_s=STEP_S * index,
            latent=latent_of(pose),
            image=b"",
            pose=(float(by_wheels[0]), float(by_wheels[1]), float(by_wheels[2])),
        )
        for index, (pose, by_wheels) in enumerate(zip(poses, odometry, strict=True))
    )
    return Route(model=POSE_MODEL, source="tour", key_frames=frames, near_energy=0.1, far_energy=1.0)


def without_odometry(route: Route) -> Route:
    return replace(route, key_frames=tuple(replace(frame, pose=None) for frame in route.key_frames))
