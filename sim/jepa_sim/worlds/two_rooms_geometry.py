"""Geometry of Two Rooms: the wall and its door, and how a round robot slides along them.

Everything is batched over N independent layouts, so that training data and a single robot share the same
physics. The arena is a square of :data:`ARENA_M`; a straight wall with one door divides it into two rooms.
Coordinates are meters, x to the right and y down, with the origin at the top left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ARENA_M = 4.0
BORDER_M = 0.1
WALL_M = 0.16
DOOR_M = 0.8
ROBOT_RADIUS_M = 0.15
MAX_SPEED_MPS = 1.25
SUBSTEP_S = 1.0 / 60.0

LayoutKind = Literal["fixed", "random"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Layouts:
    """N layouts.

    Attributes:
        axis: Axis [N] along which the wall is crossed: 0 for x, 1 for y.
        wall: Center of the wall [N] on that axis, in meters.
        door: Center of the door [N] on the other axis, in meters.
    """

    axis: NDArray[np.int64]
    wall: Floats
    door: Floats

    def __len__(self) -> int:
        return len(self.axis)

    def repeat(self, times: int) -> Layouts:
        """Return each layout ``times`` times in a row."""
        return Layouts(self.axis.repeat(times), self.wall.repeat(times), self.door.repeat(times))

    def side(self, position: Floats) -> NDArray[np.bool_]:
        """Return in which room each ``position`` [N, 2] lies."""
        return position[np.arange(len(self)), self.axis] > self.wall

    def segments(self) -> tuple[Floats, Floats]:
        """Return the lower and upper corners of the two pieces of each wall, both [N, 2 pieces, 2]."""
        count, rows = len(self), np.arange(len(self))
        low, high = np.zeros((count, 2, 2)), np.full((count, 2, 2), ARENA_M)
        for piece in range(2):
            low[rows, piece, self.axis] = self.wall - WALL_M / 2
            high[rows, piece, self.axis] = self.wall + WALL_M / 2
        high[rows, 0, 1 - self.axis] = self.door - DOOR_M / 2
        low[rows, 1, 1 - self.axis] = self.door + DOOR_M / 2
        return low, high


def sample_layouts(rng: np.random.Generator, count: int, kind: LayoutKind) -> Layouts:
    """Return ``count`` layouts: the fixed one, or random ones (wall, orientation and door)."""
    if kind == "fixed":
        return Layouts(np.zeros(count, np.int64), np.full(count, 2.0), np.full(count, 2.8))
    door_margin = BORDER_M + DOOR_M / 2
    return Layouts(
        rng.integers(0, 2, count),
        rng.uniform(1.2, ARENA_M - 1.2, count),
        rng.uniform(door_margin, ARENA_M - door_margin, count),
    )


def clear_of_walls(layouts: Layouts, position: Floats) -> Floats:
    """Return ``position`` [N, 2] pushed out of walls and border by the shortest way, so that robots slide."""
    low, high = layouts.segments()
    edge = BORDER_M + ROBOT_RADIUS_M
    moved: Floats = position.copy()
    for piece in (0, 1, 0):
        offset = moved - np.clip(moved, low[:, piece], high[:, piece])
        distance = np.linalg.norm(offset, axis=1)
        touching = (distance < ROBOT_RADIUS_M) & (distance > 0)
        moved[touching] += offset[touching] * (ROBOT_RADIUS_M / distance[touching] - 1)[:, None]
        np.clip(moved, edge, ARENA_M - edge, out=moved)
    return moved


def drive(layouts: Layouts, position: Floats, velocity: Floats, duration_s: float) -> Floats:
    """Return the positions [N, 2] after ``velocity`` [N, 2] in m/s was held for ``duration_s``.

    The speed is limited to :data:`MAX_SPEED_MPS`.
    """
    speed = np.linalg.norm(velocity, axis=1, keepdims=True)
    velocity = velocity * np.minimum(1.0, MAX_SPEED_MPS / np.maximum(speed, 1e-9))
    substeps = max(1, round(duration_s / SUBSTEP_S))
    for _ in range(substeps):
        position = clear_of_walls(layouts, position + velocity * (duration_s / substeps))
    return position


def sample_positions(rng: np.random.Generator, layouts: Layouts) -> Floats:
    """Return a free position [N, 2] in each layout, uniform over the floor where the robot fits."""
    edge = BORDER_M + ROBOT_RADIUS_M
    position = rng.uniform(edge, ARENA_M - edge, (len(layouts), 2))
    low, high = layouts.segments()
    while True:
        nearest = np.clip(position[:, None], low, high)
        blocked = (np.linalg.norm(position[:, None] - nearest, axis=2) < ROBOT_RADIUS_M).any(axis=1)
        if not blocked.any():
            return position
        position[blocked] = rng.uniform(edge, ARENA_M - edge, (int(blocked.sum()), 2))
