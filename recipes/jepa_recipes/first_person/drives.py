"""Drives in which the robot explores a layout: towards goals with disturbances, or wandering."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.layouts import Layout, PackedLayouts
from jepa_sim.worlds.first_person.motion import (
    MAX_SPEED_MPS,
    MAX_TURN_RADPS,
    MIN_SPEED_MPS,
    TICK_S,
    Robot,
    clearance,
)
from jepa_sim.worlds.first_person.odometry import WheelOdometry
from jepa_sim.worlds.first_person.paths import Command, DistanceField, steer
from jepa_sim.worlds.first_person.recordings import free_pose
from jepa_sim.worlds.first_person.world import MODEL_STEP_S

_STEP_TICKS = round(MODEL_STEP_S / TICK_S)
_GOAL_DIRECTED_RATE = 0.55
_START_FREE_M, _GOAL_FREE_M = 0.03, 0.05
# With a waypoint this near, the robot has arrived, or there is no path.
_ARRIVED_M = 0.25
_NEW_GOAL_RATE, _DISTURBANCE_RATE = 0.02, 0.15
# The wandering robot turns away from what is this far ahead of its center.
_LOOKAHEAD_M = 0.3

Policy = Callable[[Pose], Command]


@dataclass(frozen=True)
class Drive:
    """A drive of T model steps.

    Attributes:
        poses: True poses [T, 3], from which images are rendered.
        odometry: Wheel odometry [T, 3]; it begins at the origin.
        commands: ``linear.x`` and ``angular.z`` between two poses [T-1, 2].
    """

    poses: Pose
    odometry: Pose
    commands: NDArray[np.float64]


def explore(layouts: PackedLayouts, layout: Layout, steps: int, rng: np.random.Generator) -> Drive:
    """Return a drive by a random policy from a random pose.

    Args:
        layouts: One layout.
        layout: The same.
        steps: Number of poses, :data:`~jepa_sim.worlds.first_person.world.MODEL_STEP_S` apart.
        rng: Random numbers.
    """
    robot = Robot(layouts, 0, free_pose(layouts, layout, rng, _START_FREE_M))
    policy: Policy
    if rng.random() < _GOAL_DIRECTED_RATE:
        policy = _GoalDirected(layouts, layout, rng)
    else:
        policy = _Wandering(layouts, rng)
    odometry = WheelOdometry(rng)
    poses, measured, commands = [robot.pose], [odometry.pose], list[Command]()
    for _ in range(steps - 1):
        commands.append(policy(robot.pose))
        robot.drive(commands[-1], _STEP_TICKS)
        odometry.update(robot.wheel_pose)
        poses.append(robot.pose)
        measured.append(odometry.pose)
    return Drive(np.array(poses), np.array(measured), np.array(commands))


class _GoalDirected:
    """Drives to one random goal after the other, and at times holds a random command."""

    def __init__(self, layouts: PackedLayouts, layout: Layout, rng: np.random.Generator) -> None:
        self._layouts, self._layout, self._rng = layouts, layout, rng
        self._cruise_mps = rng.uniform(0.3, MAX_SPEED_MPS)
        self._field: DistanceField | None = None
        self._held, self._left = np.zeros(2), 0

    def __call__(self, pose: Pose) -> Command:
        if self._left:
            self._left -= 1
            return self._held
        if self._field is None or self._rng.random() < _NEW_GOAL_RATE:
            goal = free_pose(self._layouts, self._layout, self._rng, _GOAL_FREE_M)
            self._field = DistanceField(self._layouts, 0, goal)
        if self._rng.random() < _DISTURBANCE_RATE:
            self._left = int(self._rng.integers(1, 5))
            self._held = self._rng.uniform((MIN_SPEED_MPS, -MAX_TURN_RADPS), (MAX_SPEED_MPS, MAX_TURN_RADPS))
            return self._held
        x, y = self._field.waypoint(pose)
        if math.hypot(x - pose[0], y - pose[1]) < _ARRIVED_M:
            self._field = None
        return steer(pose, x, y, self._cruise_mps)


class _Wandering:
    """Holds random commands, and turns on the spot where something is ahead."""

    def __init__(self, layouts: PackedLayouts, rng: np.random.Generator) -> None:
        self._solids, self._count = layouts.solids[0], int(layouts.solid_count[0])
        self._rng = rng
        self._held, self._left = np.zeros(2), 0

    def __call__(self, pose: Pose) -> Command:
        if self._left:
            self._left -= 1
        else:
            self._held, self._left = self._random_command(), int(self._rng.integers(1, 7))
        if self._held[0] > 0 and self._is_blocked(pose):
            turn = MAX_TURN_RADPS * self._rng.choice((-1, 1)) * self._rng.uniform(0.4, 1)
            self._held, self._left = np.array([0.0, turn]), int(self._rng.integers(1, 5))
        return self._held

    def _random_command(self) -> Command:
        kind, turn = self._rng.random(), MAX_TURN_RADPS * self._rng.uniform(-1, 1)
        if kind < 0.2:
            return np.array([0.0, turn])
        if kind < 0.3:
            return np.array([MIN_SPEED_MPS * self._rng.random(), turn])
        return np.array([MAX_SPEED_MPS * self._rng.random(), 0.8 * turn * self._rng.random()])

    def _is_blocked(self, pose: Pose) -> bool:
        x, y = pose[0] + _LOOKAHEAD_M * math.cos(pose[2]), pose[1] + _LOOKAHEAD_M * math.sin(pose[2])
        return clearance(x, y, self._solids, self._count) < 0
