"""Shortest paths and controllers by true pose, in compiled code where they are slow.

Controllers return ``linear.x`` and ``angular.z``, or None when they have reached their goal.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose, relative, wrap
from jepa_sim.worlds.first_person.compilation import compiled
from jepa_sim.worlds.first_person.layouts import PackedLayouts
from jepa_sim.worlds.first_person.motion import MAX_TURN_RADPS, TICK_S, Solids, clearance

CELL_M = 0.1
CRUISE_MPS = 0.5
_MARGIN_M = 0.03
_LOOKAHEAD_M = 0.45
_UNREACHABLE_M = 1e8
# A controller stops within these of its goal.
_STOP_M, _STOP_RAD = 0.12, 0.1
# Beyond this bearing the robot turns on the spot.
_TURN_FIRST_RAD = 1.2
# How a trajectory follower corrects its pose: 1/s, 1/m^2 and 1/s.
_AHEAD_GAIN, _SIDE_GAIN, _HEADING_GAIN = 1.0, 4.0, 3.0

Command = NDArray[np.float64]
Field = NDArray[np.float32]


class CostMap:
    """Where the robot fits in a layout, and what a meter costs there: more near obstacles.

    Args:
        layouts: The layouts.
        which: Number of the layout.

    Attributes:
        free: Whether the robot fits into each cell [columns, rows].
        cost: Cost of each cell [columns, rows].
    """

    def __init__(self, layouts: PackedLayouts, which: int) -> None:
        columns, rows = layouts.shape[which]
        self.free, self.cost = _cost_map(
            layouts.solids[which], int(layouts.solid_count[which]),
            float(layouts.x_edges[which, columns]), float(layouts.y_edges[which, rows]),
        )  # fmt: skip


class DistanceField:
    """Length of the shortest path to a goal from everywhere in a layout; paths near obstacles count more.

    Args:
        layouts: The layouts.
        which: Number of the layout.
        goal: The goal, x and y first.
        costs: Costs in this layout, which several goals can share; None: they are computed.
    """

    def __init__(
        self, layouts: PackedLayouts, which: int, goal: Pose, *, costs: CostMap | None = None
    ) -> None:
        costs = CostMap(layouts, which) if costs is None else costs
        self._field = _distance_field(float(goal[0]), float(goal[1]), costs.free, costs.cost)

    def length(self, pose: Pose) -> float:
        """Return the length of the shortest path, where a meter near obstacles counts up to three times.

        It is infinite if there is no path, neither from the cell of the pose, in which the robot may stand
        without fitting into its center, nor from those around it.
        """
        i, j = self._cell(pose)
        length = float(self._field[i, j])
        if length > _UNREACHABLE_M:
            length = CELL_M + float(self._field[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].min())
        return math.inf if length > _UNREACHABLE_M else length

    def waypoint(self, pose: Pose) -> tuple[float, float]:
        """Return the point on the shortest path about 0.45 m ahead."""
        cell = _descend(*self._cell(pose), self._field, _LOOKAHEAD_M)
        return (cell[0] + 0.5) * CELL_M, (cell[1] + 0.5) * CELL_M

    def path(self, pose: Pose) -> NDArray[np.float64]:
        """Return the centers of the cells on the shortest path [N, 2]; empty if there is none."""
        cell = self._cell(pose)
        if self._field[cell] > _UNREACHABLE_M:
            return np.zeros((0, 2))
        cells = [cell]
        while (following := _descend(*cell, self._field, CELL_M / 2)) != cell:
            cells.append(following)
            cell = following
        return (np.array(cells) + 0.5) * CELL_M

    def _cell(self, pose: Pose) -> tuple[int, int]:
        columns, rows = self._field.shape
        return min(max(int(pose[0] / CELL_M), 0), columns - 1), min(max(int(pose[1] / CELL_M), 0), rows - 1)


def path_length(path: NDArray[np.floating]) -> float:
    """Return the length of a path [N, 2 or more]."""
    return float(np.hypot(*np.diff(path[:, :2], axis=0).T).sum())


def steer(pose: Pose, x: float, y: float, speed: float) -> Command:
    """Return the command towards a point; the robot turns on the spot if the point is not ahead."""
    bearing = wrap(math.atan2(y - pose[1], x - pose[0]) - pose[2])
    turn = float(np.clip(2.5 * bearing, -MAX_TURN_RADPS, MAX_TURN_RADPS))
    ahead = speed * max(0.0, math.cos(bearing)) ** 2 if abs(bearing) < _TURN_FIRST_RAD else 0.0
    return np.array([ahead, turn])


def drive_straight(pose: Pose, goal: Pose, speed: float = CRUISE_MPS) -> Command | None:
    """Return the command straight to a goal pose, whatever lies between; there, the robot turns."""
    left = math.hypot(goal[0] - pose[0], goal[1] - pose[1])
    if left < _STOP_M:
        turn = wrap(goal[2] - pose[2])
        return None if abs(turn) < _STOP_RAD else np.array([0.0, np.clip(2 * turn, -1.2, 1.2)])
    return steer(pose, goal[0], goal[1], min(speed, 0.15 + 0.8 * left))


class ShortestPathController:
    """Drives to a goal pose along the shortest path.

    Args:
        layouts: The layouts.
        which: Number of the layout.
        goal: The goal pose.
    """

    def __init__(self, layouts: PackedLayouts, which: int, goal: Pose) -> None:
        self._field = DistanceField(layouts, which, goal)
        self._goal = goal

    def __call__(self, pose: Pose) -> Command | None:
        if math.hypot(pose[0] - self._goal[0], pose[1] - self._goal[1]) < _LOOKAHEAD_M:
            return drive_straight(pose, self._goal)
        return steer(pose, *self._field.waypoint(pose), CRUISE_MPS)


class PathFollower:
    """Pure pursuit of a path; the robot stops at its last pose.

    Args:
        path: Poses [N, 3]; only the heading of the last one counts.
    """

    def __init__(self, path: Pose) -> None:
        self._path = path
        self._place = 0

    def __call__(self, pose: Pose) -> Command | None:
        """Return the command at a pose in the frame of the path."""
        path, last = self._path, len(self._path) - 1
        nearby = path[self._place : self._place + 60, :2]
        self._place += int(np.argmin(np.hypot(*(nearby - pose[:2]).T)))
        target = self._place
        while target < last and math.hypot(*(path[target, :2] - pose[:2])) < _LOOKAHEAD_M:
            target += 1
        if target == last:
            return drive_straight(pose, path[last])
        bearing = math.atan2(*relative(pose, path[target])[1::-1])
        turn = float(np.clip(2.2 * bearing, -MAX_TURN_RADPS, MAX_TURN_RADPS))
        ahead = CRUISE_MPS * max(0.0, math.cos(bearing)) ** 2 if abs(bearing) < _TURN_FIRST_RAD else 0.0
        return np.array([ahead, turn])


class TrajectoryFollower:
    """Repeats a drive by the true pose, at the same speed; the robot stops where the drive ended.

    Args:
        poses: Poses of the drive at every tick [N, 3].
    """

    def __init__(self, poses: Pose) -> None:
        self._poses = poses

    def __call__(self, pose: Pose, time_s: float) -> Command | None:
        """Return the command at a pose and a time since the start of the drive; None: it has ended."""
        tick, last = round(time_s / TICK_S), len(self._poses) - 1
        if tick >= last:
            return drive_straight(pose, self._poses[last])
        target = self._poses[tick]
        ahead, _, turn = relative(target, self._poses[tick + 1]) / TICK_S
        x, y, heading = relative(pose, target)
        speed = ahead * math.cos(heading) + _AHEAD_GAIN * x
        return np.array([speed, turn + ahead * _SIDE_GAIN * y + _HEADING_GAIN * math.sin(heading)])


@compiled
def _cost_map(solids: Solids, count: int, size_x: float, size_y: float) -> tuple[NDArray[np.bool_], Field]:
    """Return whether the robot fits into each cell [columns, rows], and what a meter costs there."""
    columns, rows = int(size_x / CELL_M) + 1, int(size_y / CELL_M) + 1
    free = np.zeros((columns, rows), np.bool_)
    cost = np.ones((columns, rows), np.float32)
    for i in range(columns):
        for j in range(rows):
            distance = clearance((i + 0.5) * CELL_M, (j + 0.5) * CELL_M, solids, count)
            free[i, j] = distance > _MARGIN_M
            cost[i, j] = 1.0 + 2.0 * max(0.0, 0.25 - distance) / 0.25
    return free, cost


@compiled
def _distance_field(goal_x: float, goal_y: float, free: NDArray[np.bool_], cost: Field) -> Field:
    """Return costs [columns, rows] from all cells to the goal over eight neighbors, by relaxation."""
    columns, rows = free.shape
    free = free.copy()
    field = np.full((columns, rows), np.float32(1e9))
    goal_i, goal_j = min(columns - 1, int(goal_x / CELL_M)), min(rows - 1, int(goal_y / CELL_M))
    field[goal_i, goal_j] = 0
    free[goal_i, goal_j] = True
    queue = np.empty((columns * rows * 40, 2), np.int32)
    queue[0, 0], queue[0, 1] = goal_i, goal_j
    head, tail = 0, 1
    while head < tail:
        i, j = queue[head, 0], queue[head, 1]
        head += 1
        for a in range(-1, 2):
            for b in range(-1, 2):
                p, q = i + a, j + b
                if not ((a or b) and 0 <= p < columns and 0 <= q < rows and free[p, q]):
                    continue
                if a and b and not (free[i + a, j] and free[i, j + b]):
                    continue
                length = CELL_M * math.sqrt(a * a + b * b)
                new = field[i, j] + length * (cost[p, q] + cost[i, j]) / 2
                if new < field[p, q] - 1e-4 and tail < len(queue):
                    field[p, q] = new
                    queue[tail, 0], queue[tail, 1] = p, q
                    tail += 1
    return field


@compiled
def _descend(i: int, j: int, field: Field, ahead: float) -> tuple[int, int]:
    """Return the cell about ``ahead`` meters down the field."""
    gone = 0.0
    while gone < ahead:
        best_i, best_j = i, j
        for a in range(-1, 2):
            for b in range(-1, 2):
                p, q = i + a, j + b
                if (
                    0 <= p < field.shape[0]
                    and 0 <= q < field.shape[1]
                    and field[p, q] < field[best_i, best_j]
                ):
                    best_i, best_j = p, q
        if best_i == i and best_j == j:
            break
        gone += CELL_M * math.hypot(best_i - i, best_j - j)
        i, j = best_i, best_j
    return i, j
