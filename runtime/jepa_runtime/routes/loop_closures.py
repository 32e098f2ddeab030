"""Loop closures: key frames of different times that are near each other, by poses that a model reads.

A reading is accepted if the model is certain of it, if it reads the inverse from the other image, and if
readings of neighboring key frames agree with it by odometry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.routes.pose_graph import Measurement
from jepa_runtime.routes.route import Floats
from jepa_runtime.util.poses import Pose, compose, relative, wrap

# Proportion of the readings of images with nothing in common that may be certain, by either deviation.
_FALSE_RATE = 0.05
# Two images turned farther apart have nothing in common. That many pairs of a tour are read at most.
_NOTHING_IN_COMMON_RAD, _PAIRS = 2.2, 400


class PoseReader(Protocol):
    """What reads relative poses, such as a :class:`~jepa_runtime.model.WorldModel`."""

    def relative_poses(self, latents: Floats, goal: Floats) -> Floats:
        """Return the pose of a goal [T, D] in the frame of each latent [n, T, D], as float32 [n, 5]."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """When a read pose counts as certain, and when two poses agree.

    Attributes:
        max_distance_m: Largest distance that is read.
        max_position_std_m: Largest standard deviation of the position.
        max_yaw_std_rad: Largest standard deviation of the yaw.
        agreement: Largest normalized square difference of two poses that agree.
        tolerance_m: Standard deviation that is added to that of each position, for errors that a model does
            not state.
        tolerance_rad: The same for the yaw.

    Raises:
        ValueError: A value is not positive.
    """

    max_distance_m: float = 3.5
    max_position_std_m: float = 1.0
    max_yaw_std_rad: float = 0.5
    agreement: float = 6.0
    tolerance_m: float = 0.1
    tolerance_rad: float = 0.06

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")

    def is_certain(self, readings: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which of the readings [n, 5] are certain [n]."""
        certain: NDArray[np.bool_] = (
            (np.hypot(readings[:, 0], readings[:, 1]) < self.max_distance_m)
            & (readings[:, 3] < self.max_position_std_m)
            & (readings[:, 4] < self.max_yaw_std_rad)
        )
        return certain

    def limited_by(self, readings: NDArray[np.floating]) -> ReadingConfig:
        """Return the settings with which nearly all of these readings [n, 5] are uncertain.

        Args:
            readings: Readings of images that have nothing in common.
        """
        if not len(readings):
            return self
        position, yaw = np.quantile(readings[:, 3:], _FALSE_RATE, axis=0).tolist()
        return replace(
            self,
            max_position_std_m=min(self.max_position_std_m, position),
            max_yaw_std_rad=min(self.max_yaw_std_rad, yaw),
        )

    def agree(self, one: Pose, one_std: Pose, other: Pose, other_std: Pose) -> bool:
        """Return whether two poses [3] with standard deviations [2] of position and yaw agree."""
        position = one_std[0] ** 2 + other_std[0] ** 2 + self.tolerance_m**2
        yaw = one_std[1] ** 2 + other_std[1] ** 2 + self.tolerance_rad**2
        dx, dy, turn = one[0] - other[0], one[1] - other[1], wrap(one[2] - other[2])
        return bool((dx**2 + dy**2) / position + turn**2 / yaw <= self.agreement)


def unrelated_readings(latents: Floats, odometry: Pose, reader: PoseReader) -> NDArray[np.float64]:
    """Return readings [n, 5] of pairs of key frames of a tour that have nothing in common.

    Args:
        latents: Latents of the key frames [N, T, D].
        odometry: Their poses by odometry [N, 3].
        reader: What reads poses.
    """
    count = len(odometry)
    goals = np.unique(np.linspace(0, count - 1, min(count, math.isqrt(_PAIRS))).round().astype(int))
    found = [np.zeros((0, 5))]
    for goal in goals.tolist():
        turns = np.abs((odometry[:, 2] - odometry[goal, 2] + np.pi) % (2 * np.pi) - np.pi)
        turned = np.flatnonzero(turns >= _NOTHING_IN_COMMON_RAD)
        turned = turned[:: max(len(turned) * len(goals) // _PAIRS, 1)]
        if len(turned):
            found.append(np.asarray(reader.relative_poses(latents[turned], latents[goal]), np.float64))
    return np.concatenate(found)


def inverse_reading(reading: NDArray[np.floating]) -> Pose:
    """Return the pose of the first image in the frame of the second one, with standard deviations [5]."""
    values = np.asarray(reading, np.float64)
    pose = relative(values[:3], np.zeros(3))
    position_std = math.hypot(values[3], values[4] * math.hypot(values[0], values[1]))
    return np.array([*pose, position_std, values[4]])


def confirmed_reading(
    reading: NDArray[np.floating], back: NDArray[np.floating], config: ReadingConfig
) -> Pose | None:
    """Return the mean of a reading [5] and of the inverse of the reading in the other direction.

    Returns:
        The mean with standard deviations [5]; None: they do not agree.
    """
    one, other = np.asarray(reading, np.float64), inverse_reading(back)
    if not config.agree(one[:3], one[3:], other[:3], other[3:]):
        return None
    weight = one[3:] ** -2 / (one[3:] ** -2 + other[3:] ** -2)
    share = np.array([weight[0], weight[0], weight[1]])
    difference = other[:3] - one[:3]
    difference[2] = wrap(difference[2])
    pose = one[:3] + (1 - share) * difference
    # Both readings see the same images: their errors are not independent.
    return np.array([*pose, *np.minimum(one[3:], other[3:])])


@dataclass(frozen=True, kw_only=True)
class LoopClosureConfig:
    """Which pairs of key frames may be loop closures.

    Attributes:
        reading: When a reading is certain.
        min_apart_s: Least time between them.
        max_distance_m: Largest distance, by the present poses.
        max_turn_rad: Largest difference of the headings, by the present poses.
        max_closure_m: Largest distance that is read.
        std_factor: Factor on the standard deviations of the readings: those of neighbors err alike.
    """

    reading: ReadingConfig = ReadingConfig()
    min_apart_s: float = 3.0
    max_distance_m: float = 2.0
    max_turn_rad: float = 1.0
    max_closure_m: float = 1.2
    std_factor: float = 2.0


class LoopClosureFinder:
    """Finds the loop closures of a tour. Each pair of key frames is read once, however often it is asked.

    Args:
        latents: Latents of the key frames [N, T, D].
        times_s: Their times [N].
        odometry: Their poses by odometry [N, 3].
        reader: What reads poses.
        config: Settings.
    """

    def __init__(
        self,
        latents: Floats,
        times_s: NDArray[np.float64],
        odometry: Pose,
        reader: PoseReader,
        config: LoopClosureConfig,
    ) -> None:
        self._latents, self._times_s, self._odometry = latents, times_s, odometry
        self._reader, self._config = reader, config
        # By first and second key frame: the reading if it is certain and the same in both directions.
        self._readings: dict[tuple[int, int], Pose | None] = {}

    def find(self, poses: Pose, *, within_s: float = math.inf) -> list[Measurement]:
        """Return the loop closures.

        Args:
            poses: Poses of the key frames as they are known so far [N, 3].
            within_s: Longest time between the key frames of a loop closure.
        """
        config, readings = self._config, dict[tuple[int, int], Pose]()
        for second, firsts in enumerate(_candidates(self._times_s, poses, config, within_s)):
            self._read([first for first in firsts if (first, second) not in self._readings], second)
            for first in firsts:
                reading = self._readings[first, second]
                if reading is not None:
                    readings[first, second] = reading
        return [
            Measurement(
                first,
                second,
                found[:3],
                config.std_factor * max(found[3], config.reading.tolerance_m / 2),
                config.std_factor * max(found[4], config.reading.tolerance_rad / 2),
            )
            for (first, second), found in readings.items()
            if _is_confirmed(first, second, readings, self._odometry, config.reading)
            and math.hypot(found[0], found[1]) <= config.max_closure_m
        ]

    def _read(self, firsts: list[int], second: int) -> None:
        if not firsts:
            return
        latents, config = self._latents, self._config.reading
        readings = self._reader.relative_poses(latents[firsts], latents[second])
        for first, reading, is_certain in zip(firsts, readings, config.is_certain(readings), strict=True):
            found = None
            if is_certain:
                back = self._reader.relative_poses(latents[second], latents[first])
                found = confirmed_reading(reading, back, config)
            self._readings[first, second] = found


def _candidates(
    times_s: NDArray[np.float64], poses: Pose, config: LoopClosureConfig, within_s: float
) -> list[list[int]]:
    """Return for each key frame the earlier ones that may be near it."""
    found = []
    for index, pose in enumerate(poses):
        apart = np.hypot(*(poses[:index, :2] - pose[:2]).T)
        turns = np.abs((poses[:index, 2] - pose[2] + np.pi) % (2 * np.pi) - np.pi)
        apart_s = times_s[index] - times_s[:index]
        is_earlier = (config.min_apart_s <= apart_s) & (apart_s <= within_s)
        is_near = (apart <= config.max_distance_m) & (turns <= config.max_turn_rad)
        found.append(np.flatnonzero(is_earlier & is_near).tolist())
    return found


def _is_confirmed(
    first: int,
    second: int,
    readings: Mapping[tuple[int, int], Pose],
    odometry: Pose,
    config: ReadingConfig,
) -> bool:
    """Return whether the readings of neighboring key frames agree, by odometry."""
    reading, votes = readings[first, second], []
    for step in (-1, 1):
        neighbor = readings.get((first, second + step))
        if neighbor is not None:
            motion = relative(odometry[second], odometry[second + step])
            expected = compose(reading[:3], motion)
            votes.append(config.agree(expected, reading[3:], neighbor[:3], neighbor[3:]))
        neighbor = readings.get((first + step, second))
        if neighbor is not None:
            motion = relative(odometry[first + step], odometry[first])
            expected = compose(motion, reading[:3])
            votes.append(config.agree(expected, reading[3:], neighbor[:3], neighbor[3:]))
    return 2 * sum(votes) > len(votes)
