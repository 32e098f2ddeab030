"""Where in a graph of places an image was taken: poses read from all key frames, as far as they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.routes.appearance import Appearance
from jepa_runtime.routes.loop_closures import PoseReader, ReadingConfig, confirmed_reading
from jepa_runtime.routes.route import Floats
from jepa_runtime.util.poses import Pose, compose, relative

# Chance that a reading which is certain is false, as long as no other key frame agrees with it.
_FALSE = 0.5
# Key frames whose relative poses are read from each image: those that look most like it.
_LEAST_READ, _READ = 48, 0.3
# Neighboring key frames whose readings count as one, for the certainty of the mean.
_ALIKE = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Location:
    """Where a robot or a camera is in the frame of a graph.

    Attributes:
        pose: The pose [3]: x [m], y [m], yaw [rad].
        position_std_m: Standard deviation of x and of y.
        yaw_std_rad: Standard deviation of the yaw.
        confidence: Weight of the readings that agree, as a proportion of all certain ones; less if they are
            of few key frames.
        key_frames: The key frames whose readings agree.
    """

    pose: Pose
    position_std_m: float
    yaw_std_rad: float
    confidence: float
    key_frames: tuple[int, ...]

    def moved(self, motion: Pose) -> Location:
        """Return the location after a motion [3] in its own frame."""
        return Location(
            pose=compose(self.pose, motion),
            position_std_m=self.position_std_m,
            yaw_std_rad=self.yaw_std_rad,
            confidence=self.confidence,
            key_frames=self.key_frames,
        )


class Relocalizer:
    """Finds a place from one image, or from several images with odometry between them.

    Args:
        latents: Latents of the key frames [N, T, D].
        poses: Their poses in the frame of the graph [N, 3].
        reader: What reads poses.
        config: When readings are certain, and when they agree.
    """

    def __init__(
        self, latents: Floats, poses: Pose, reader: PoseReader, config: ReadingConfig | None = None
    ) -> None:
        self._latents, self._poses, self._reader = latents, poses, reader
        self._config = ReadingConfig() if config is None else config
        self._appearance = Appearance(latents)
        # Of all certain readings: the pose of the origin of the odometry with standard deviations [5], and
        # the key frame.
        self._found: list[Pose] = []
        self._key_frames: list[int] = []

    def add(self, latent: Floats, pose: Pose | None = None) -> None:
        """Add an image.

        Args:
            latent: Its latent [T, D].
            pose: Pose of the robot at the image by odometry [3]; None: at the origin.
        """
        back_to_origin = relative(np.zeros(3) if pose is None else pose, np.zeros(3))
        alike = self._appearance.most_alike(latent, max(_LEAST_READ, round(_READ * len(self._latents))))
        readings = self._reader.relative_poses(self._latents[alike], latent)
        certain = self._config.is_certain(readings)
        for index, there in zip(alike[certain].tolist(), readings[certain], strict=True):
            back = self._reader.relative_poses(latent, self._latents[index])
            reading = confirmed_reading(there, back, self._config)
            if reading is None:
                continue
            origin = compose(compose(self._poses[index], reading[:3]), back_to_origin)
            self._found.append(np.array([*origin, *reading[3:]]))
            self._key_frames.append(index)

    @property
    def origin(self) -> Location | None:
        """Location of the origin of the odometry; None: nothing has been read."""
        if not self._found:
            return None
        found, key_frames = np.stack(self._found), np.array(self._key_frames)
        std = np.maximum(found[:, 3:], (self._config.tolerance_m, self._config.tolerance_rad))
        weights = 1 / std**2
        # The height of each reading's density: it says more about which readings are false than its variance.
        heights = weights[:, 0] / std[:, 1]
        squares = _squares(found[:, None, :3], found[None, :, :3], std[:, None] ** 2 + std[None] ** 2)
        best = int((squares <= self._config.agreement).astype(float).dot(heights).argmax())
        agrees = squares[best] <= self._config.agreement
        pose = _mean(found[agrees, :3], weights[agrees])
        agrees = _squares(found[:, :3], pose, std**2) <= self._config.agreement
        if not agrees.any():
            return None
        pose = _mean(found[agrees, :3], weights[agrees])
        near = np.unique(key_frames[agrees])
        # Readings of one key frame, and of its neighbors, err alike.
        independent = math.sqrt(len(near) / _ALIKE)
        spread = np.sqrt((weights[agrees] * _errors(found[agrees, :3], pose)).sum(0) / weights[agrees].sum(0))
        spread = spread / max(independent, 1.0)
        least = 1 / np.sqrt(weights[agrees].sum(0))
        confidence = float(heights[agrees].sum() / heights.sum())
        return Location(
            pose=pose,
            position_std_m=float(np.hypot(spread[0], least[0])),
            yaw_std_rad=float(np.hypot(spread[1], least[1])),
            confidence=confidence * (1 - _FALSE ** len(near)),
            key_frames=tuple(near.tolist()),
        )


def _errors(poses: Pose, center: Pose) -> Pose:
    """Return square errors [..., 2] of the position along one axis, and of the yaw."""
    difference = poses - center
    turn = (difference[..., 2] + np.pi) % (2 * np.pi) - np.pi
    return np.stack([(difference[..., :2] ** 2).sum(axis=-1) / 2, turn**2], axis=-1)


def _squares(poses: Pose, center: Pose, variance: Pose) -> NDArray[np.float64]:
    """Return normalized square differences [...]."""
    errors: NDArray[np.float64] = _errors(poses, center) / variance * (2.0, 1.0)
    total: NDArray[np.float64] = errors.sum(axis=-1)
    return total


def _mean(poses: Pose, weights: NDArray[np.float64]) -> Pose:
    """Return the weighted mean pose [3]; ``weights`` [n, 2] are those of position and yaw."""
    x, y = (weights[:, :1] * poses[:, :2]).sum(axis=0) / weights[:, 0].sum()
    sin, cos = (weights[:, 1:] * np.stack([np.sin(poses[:, 2]), np.cos(poses[:, 2])], axis=1)).sum(axis=0)
    return np.array([x, y, np.arctan2(sin, cos)])
