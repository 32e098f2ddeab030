"""How poses that a model reads are wrong: where a goal may be by a reading, and how probable the reading is.

The errors are those of models that learn to read poses, and not only noise. A goal at the side is read as
more nearly on the arc along which a robot would drive to it. Errors have heavy tails. The position error that
the model expects is its own measure of what two images have in common.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.util.poses import wrap_all

OFFSET_M = 0.15
"""Added to a distance before its logarithm is compared."""
# The farthest goal.
_MAX_M = 4.0
# A reading shows this proportion of the angle between the bearing and that of an arc to the goal's heading.
_SHOWN = 0.8
# Expected error of the bearing, as a multiple of that of the position divided by the distance, and at least;
# that of the logarithm of the distance, as a multiple of that of the bearing; and that of yaw, as a multiple
# of the stated one.
_BEARING_FACTOR, _LEAST_BEARING_RAD = 1.5, 0.1
_DISTANCE_FACTOR, _LEAST_DISTANCE = 0.6, 0.1
_YAW_FACTOR, _LEAST_YAW_RAD = 1.5, 0.04
# Nearer than this, the bearing counts less.
_BEARING_MATTERS_M = 0.3
# Expected error of the position, as a proportion of the distance, up to which a reading counts in full, and
# from which on it says nothing: the image has nothing in common with the goal.
_FULL_RATIO, _VAGUE_RATIO = 0.7, 1.5
# Added to the distance in that proportion.
_NEAR_M = 0.1
# Likelihood of a value that is wrong altogether, relative to that of one without error; and how often a value
# is taken for wrong when poses are drawn.
_WRONG, _DRAWN_WRONG = 0.05, 0.1
# The expected position error of a view with the heading of the goal is at most this much, and this proportion
# of the distance. A larger one speaks against such a goal, with this exponent, and up to this logarithm.
_CERTAIN_M, _CERTAIN_RATIO, _CERTAIN_EXPONENT, _MAX_EXCESS = 0.05, 0.5, 2.0, 1.5

Floats = NDArray[np.float64]


def certainty(reading: RelativePose) -> float:
    """Return by how much a reading counts, from 0 to 1."""
    return min(max((_VAGUE_RATIO - _ratio(reading)) / (_VAGUE_RATIO - _FULL_RATIO), 0.0), 1.0)


def log_likelihoods(poses: Floats, reading: RelativePose) -> Floats:
    """Return the log likelihoods [N] of a reading if the goal is at each of some poses [N, 3]."""
    distance, bearing, yaw = np.hypot(*poses[:, :2].T), np.arctan2(poses[:, 1], poses[:, 0]), poses[:, 2]
    read_m, read_rad = _polar(reading)
    bearing_scale, distance_scale, yaw_scale = _scales(reading)
    on_arc = yaw / 2 + np.where(np.abs(bearing) > math.pi / 2, math.pi, 0.0)
    shown = on_arc + _SHOWN * wrap_all(bearing - on_arc)
    by_bearing = _bearing_counts(distance) * np.abs(wrap_all(read_rad - shown)) / bearing_scale
    by_distance = np.abs(np.log((distance + OFFSET_M) / (read_m + OFFSET_M))) / distance_scale
    by_yaw = np.abs(wrap_all(reading.yaw_rad - yaw)) / yaw_scale
    certain_m = _CERTAIN_M + _CERTAIN_RATIO * distance
    excess = np.clip(np.log(reading.position_std_m / certain_m), 0.0, _MAX_EXCESS)
    total: Floats = -_CERTAIN_EXPONENT * excess * np.square(np.maximum(np.cos(yaw), 0.0))
    for error in (by_bearing, by_distance, by_yaw):
        total += np.log(_WRONG + np.exp(-error))
    return total


def draw_poses(reading: RelativePose, count: int, rng: np.random.Generator) -> Floats:
    """Return poses [count, 3] at which the goal may be by a reading, drawn at random."""
    read_m, read_rad = _polar(reading)
    bearing_scale, distance_scale, yaw_scale = _scales(reading)
    is_wrong = rng.random((3, count)) < _DRAWN_WRONG
    errors = rng.laplace(size=(3, count))
    anywhere = rng.uniform(-math.pi, math.pi, (2, count))
    yaw = np.where(is_wrong[0], anywhere[0], wrap_all(reading.yaw_rad + yaw_scale * errors[0]))
    low, high = math.log(OFFSET_M), math.log(_MAX_M + OFFSET_M)
    logarithm = math.log(read_m + OFFSET_M) + distance_scale * errors[1]
    is_wrong[1] |= (logarithm < low) | (logarithm > high)
    distance = np.exp(np.where(is_wrong[1], rng.uniform(low, high, count), logarithm)) - OFFSET_M
    shown = wrap_all(read_rad + bearing_scale / np.maximum(_bearing_counts(distance), 0.1) * errors[2])
    bearing = np.where(is_wrong[2], anywhere[1], _bearing_of(shown, yaw))
    return np.stack([distance * np.cos(bearing), distance * np.sin(bearing), yaw], axis=1)


def _bearing_of(shown: Floats, yaw: Floats) -> Floats:
    """Return the bearings of which readings show these; as shown, if there is none on that side."""
    from_ahead = wrap_all(shown - yaw / 2) / _SHOWN
    from_behind = wrap_all(shown - yaw / 2 - math.pi) / _SHOWN
    ahead, behind = yaw / 2 + from_ahead, wrap_all(yaw / 2 + math.pi + from_behind)
    is_behind = (np.abs(behind) > math.pi / 2) & (np.abs(from_behind) < math.pi / 2)
    bearing: Floats = np.where(np.abs(ahead) < math.pi / 2, ahead, np.where(is_behind, behind, shown))
    return bearing


def _polar(reading: RelativePose) -> tuple[float, float]:
    return math.hypot(reading.x_m, reading.y_m), math.atan2(reading.y_m, reading.x_m)


def _ratio(reading: RelativePose) -> float:
    return reading.position_std_m / (_polar(reading)[0] + _NEAR_M)


def _scales(reading: RelativePose) -> tuple[float, float, float]:
    """Return the expected errors of bearing, of the logarithm of the distance, and of yaw."""
    bearing = max(_BEARING_FACTOR * _ratio(reading), _LEAST_BEARING_RAD)
    distance = max(_DISTANCE_FACTOR * bearing, _LEAST_DISTANCE)
    return bearing, distance, max(_YAW_FACTOR * reading.yaw_std_rad, _LEAST_YAW_RAD)


def _bearing_counts(distance: Floats) -> Floats:
    return np.minimum(distance / _BEARING_MATTERS_M, 1.0)
