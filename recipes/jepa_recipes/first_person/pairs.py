"""Pairs of frames of one drive whose relative pose is learned, drawn evenly over distance, bearing and turn.

Most frames of a drive are near each other, and ahead of or behind each other: drawn at random, pairs more
than 1.5 m apart were one in twenty, and a model that saw few pairs side by side read their bearing as
straight ahead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MAX_REACH_M = 3.2
# Turned farther, two images at one place have nothing in common.
_MAX_TURN_RAD = 1.75
_DISTANCES = 8
# Absolute bearings of the second frame in the first: ahead, to the sides, and behind.
_BEARINGS_RAD = np.radians([20.0, 60.0, 120.0])
# Added to the number of pairs in a bin, so that rare pairs are not drawn again and again.
_SMOOTHING = 1
_LARGE_TURN_RAD, _LARGE_TURN_WEIGHT = 0.8, 0.6


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
    bearing = np.abs(_wrapped(np.arctan2(change[..., 1], change[..., 0]) - odometry[:, first, 2]))
    turn = np.abs(_wrapped(change[..., 2]))
    eligible = (distance < reach_m) & (turn < _MAX_TURN_RAD)
    bins = np.minimum(_DISTANCES - 1, (distance / reach_m * _DISTANCES).astype(np.int64))
    bins = 2 * (len(_BEARINGS_RAD) + 1) * bins + 2 * np.searchsorted(_BEARINGS_RAD, bearing)
    bins += turn >= _LARGE_TURN_RAD
    crowd = np.bincount(bins[eligible], minlength=bins.max(initial=0) + 1) + _SMOOTHING
    weights = eligible / crowd[bins] * np.where(turn < _LARGE_TURN_RAD, 1.0, _LARGE_TURN_WEIGHT)
    weights[~eligible.any(axis=1)] = 1.0
    chosen = np.stack([rng.choice(len(first), count, p=row / row.sum()) for row in weights])
    offset = frames * np.arange(drives)[:, None]
    return (first[chosen] + offset).reshape(-1), (second[chosen] + offset).reshape(-1)


def _wrapped(angle: NDArray[np.floating]) -> NDArray[np.floating]:
    wrapped: NDArray[np.floating] = (angle + np.pi) % (2 * np.pi) - np.pi
    return wrapped
