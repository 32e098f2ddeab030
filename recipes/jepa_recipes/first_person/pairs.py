"""Pairs of frames of one drive whose relative pose is learned, drawn evenly over distance, bearing and turn.

Most frames of a drive are near each other, and ahead of or behind each other: drawn at random, pairs more
than 1.5 m apart were one in twenty, and a model that saw few pairs side by side read their bearing as
straight ahead. A robot that drives to one side also turns to that side, so turns to either side are drawn
evenly, too. Pairs that look in opposite directions have hardly anything in common: a model that never saw
such pairs found matches in them, and stated small errors for the poses that it read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import wrap_all

Ints = NDArray[np.int64]

MAX_REACH_M = 3.2
_DISTANCES = 8
# How often pairs of the nearest bin are drawn; in many of them, the robot has only turned.
_NEAREST_WEIGHT = 0.4
# Absolute bearings of the second frame in the first: ahead, to the sides, and behind.
_BEARINGS_RAD = np.radians([20.0, 60.0, 120.0])
# Added to the number of pairs in a bin, so that rare pairs are not drawn again and again.
_SMOOTHING = 1
# Absolute turns: views of the same things, views that overlap at the edge, and views in opposite directions,
# and how often they are drawn.
_TURNS_RAD = np.array([0.8, 1.75])
_TURN_WEIGHTS = np.array([1.0, 0.6, 0.4])


def sample_pairs(
    odometry: NDArray[np.floating], count: int, *, reach_m: float, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Return the numbers among all D F frames of the first and second frames of pairs, each [D count].

    Args:
        odometry: Odometry at F frames of D drives [D, F, 3].
        count: Pairs of each drive.
        reach_m: Largest distance, by odometry. A drive without such a pair contributes any pairs.
        rng: Random numbers.
    """
    drives, frames, _ = odometry.shape
    first, second = np.nonzero(~np.eye(frames, dtype=bool))
    change = odometry[:, second] - odometry[:, first]
    distance = np.hypot(change[..., 0], change[..., 1])
    bearing = wrap_all(np.arctan2(change[..., 1], change[..., 0]) - odometry[:, first, 2])
    turn = wrap_all(change[..., 2])
    turns_away = turn * bearing < 0
    eligible = distance < reach_m
    turn_class = np.searchsorted(_TURNS_RAD, np.abs(turn))
    distance_class = np.minimum(_DISTANCES - 1, (distance / reach_m * _DISTANCES).astype(np.int64))
    bins = (len(_BEARINGS_RAD) + 1) * distance_class + np.searchsorted(_BEARINGS_RAD, np.abs(bearing))
    bins = 2 * (len(_TURN_WEIGHTS) * bins + turn_class) + turns_away
    crowd = np.bincount(bins[eligible], minlength=bins.max(initial=0) + 1) + _SMOOTHING
    weights = eligible / crowd[bins] * _TURN_WEIGHTS[turn_class]
    weights[distance_class == 0] *= _NEAREST_WEIGHT
    weights[~eligible.any(axis=1)] = 1.0
    chosen = np.stack([rng.choice(len(first), count, p=row / row.sum()) for row in weights])
    offset = frames * np.arange(drives)[:, None]
    return (first[chosen] + offset).reshape(-1), (second[chosen] + offset).reshape(-1)
