"""The scale of the headings of odometry, from turns on the spot: wheel separations are never known exactly.

An error of 2 % in the wheel separation turns a robot that made thirty full turns by 200 degrees. A model that
reads poses measures the scale: the images at the start and at the end of a full turn show nearly the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from jepa_runtime.routes.pose_graph import Measurement
from jepa_runtime.util.poses import Pose, compose, relative

TURN_S = 15.0
"""Longest time between two key frames of one turn on the spot."""

# Least turn and longest travel between them: odometry drifts on the way.
_LEAST_TURN_RAD, _LONGEST_M = 4.0, 0.5
# Fewest pairs that say something, and the largest correction.
_LEAST_PAIRS, _LARGEST = 3, 0.15


def turn_scale(odometry: Pose, closures: Sequence[Measurement]) -> float:
    """Return by how much the turns of odometry are too large, as a factor; 1 if nothing says so.

    Args:
        odometry: Poses of key frames by odometry [N, 3].
        closures: Poses between key frames that were read from images.
    """
    turns = np.unwrap(odometry[:, 2])
    ways = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(odometry[:, :2], axis=0).T))])
    found = []
    for each in closures:
        turn = turns[each.second] - turns[each.first]
        if abs(turn) >= _LEAST_TURN_RAD and ways[each.second] - ways[each.first] <= _LONGEST_M:
            found.append((turn, math.remainder(turn - float(each.pose[2]), 2 * math.pi)))
    if len(found) < _LEAST_PAIRS:
        return 1.0
    turn, error = np.array(found).T
    error_rate = float(np.median(error / turn))
    return 1 / (1 - float(np.clip(error_rate, -_LARGEST, _LARGEST)))


def with_turn_scale(odometry: Pose, scale: float) -> Pose:
    """Return poses by odometry [N, 3] as they are if all turns are divided by ``scale``."""
    poses = [odometry[0]]
    for before, after in pairwise(odometry):
        x, y, turn = relative(before, after)
        # An arc that is turned less also ends at another side of its chord.
        chord = turn / 2 / scale - turn / 2
        cos, sin = math.cos(chord), math.sin(chord)
        poses.append(compose(poses[-1], np.array([cos * x - sin * y, sin * x + cos * y, turn / scale])))
    return np.array(poses)
