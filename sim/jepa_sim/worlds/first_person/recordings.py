"""Drives that are shown to the robot before its own: a route, or a tour of the house."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.layouts import Layout, PackedLayouts
from jepa_sim.worlds.first_person.motion import TICK_S, clearance
from jepa_sim.worlds.first_person.paths import (
    CELL_M,
    CRUISE_MPS,
    Command,
    CostMap,
    DistanceField,
    path_length,
    steer,
)
from jepa_sim.worlds.first_person.scene import SimulatedRobot

# Ticks between two commands of the driver who shows the way.
_COMMAND_TICKS = 4
_FREE_M = 0.12
_ARRIVED_M = 0.3
# In a survey, a full turn is made at most this far from every place where the robot fits.
_SURVEYED_M = 1.2
# Goals of a route are farther apart than this.
_APART_M = 2.5
_MAX_S = 120.0
_TURN_RADPS = 1.0


@dataclass(frozen=True)
class Recording:
    """A drive.

    Attributes:
        poses: True poses at every tick [N, 3].
        odometry: Wheel odometry at every tick [N, 3]; it begins at the origin.
        commands: Command of the driver from every tick on [N, 2].
    """

    poses: Pose
    odometry: Pose
    commands: NDArray[np.float64]

    @property
    def duration_s(self) -> float:
        """Duration of the drive."""
        return (len(self.poses) - 1) * TICK_S

    @property
    def length_m(self) -> float:
        """Length of the path."""
        return path_length(self.poses)

    def at(self, times_s: NDArray[np.floating]) -> Recording:
        """Return the recording at certain times [N], its poses interpolated between ticks.

        Its headings are not limited to one turn.
        """
        ticks = np.arange(len(self.poses)) * TICK_S

        def interpolated(poses: Pose) -> Pose:
            columns = poses[:, 0], poses[:, 1], np.unwrap(poses[:, 2])
            return np.stack([np.interp(times_s, ticks, column) for column in columns], axis=1)

        held = np.searchsorted(ticks, times_s, side="right") - 1
        return Recording(interpolated(self.poses), interpolated(self.odometry), self.commands[held])


def free_pose(layouts: PackedLayouts, layout: Layout, rng: np.random.Generator, least: float = 0.05) -> Pose:
    """Return a random pose whose clearance exceeds ``least``, in the first of ``layouts``."""
    while True:
        pose: Pose = rng.uniform((0, 0, -math.pi), (*layout.size, math.pi))
        if clearance(pose[0], pose[1], layouts.solids[0], int(layouts.solid_count[0])) > least:
            return pose


def record_route(
    layouts: PackedLayouts,
    layout: Layout,
    robot: SimulatedRobot,
    length_m: float,
    rng: np.random.Generator,
) -> Recording | None:
    """Record a drive to one random goal after the other.

    Args:
        layouts: One layout.
        layout: The same.
        robot: The robot, where the drive begins.
        length_m: Length after which it ends.
        rng: Random numbers.

    Returns:
        The drive; None if the driver was stuck.
    """
    drive = _Drive(layouts, robot)
    while drive.robot.path_m < length_m:
        goal = free_pose(layouts, layout, rng, _FREE_M)
        pose = drive.robot.pose
        if math.hypot(goal[0] - pose[0], goal[1] - pose[1]) < _APART_M:
            continue
        if not drive.to(goal, drive.field(goal), length_m):
            return None
    return drive.recording()


def record_tour(
    layouts: PackedLayouts, layout: Layout, robot: SimulatedRobot, rng: np.random.Generator
) -> Recording:
    """Record a drive through every room, with a full turn in each; the nearest room is always next."""
    drive = _Drive(layouts, robot)
    left = list(range(len(layout.rooms)))
    while left:
        goals, fields = {}, {}
        for number in left:
            goal = free_pose(layouts, layout, rng, _FREE_M)
            while layout.room_at(goal[0], goal[1]) != number:
                goal = free_pose(layouts, layout, rng, _FREE_M)
            goals[number], fields[number] = goal, drive.field(goal)
        lengths = {number: path_length(field.path(drive.robot.pose)) for number, field in fields.items()}
        nearest = min(left, key=lengths.__getitem__)
        drive.to(goals[nearest], fields[nearest], math.inf)
        drive.turn(2 * math.pi)
        left.remove(nearest)
    return drive.recording()


def record_survey(layouts: PackedLayouts, layout: Layout, robot: SimulatedRobot) -> Recording:
    """Record a drive with full turns, one of them near every place; the nearest viewpoint is always next."""
    drive = _Drive(layouts, robot)
    left = [(viewpoint, drive.field(viewpoint)) for viewpoint in _viewpoints(layout, drive)]
    while left:
        lengths = [field.length(drive.robot.pose) for _, field in left]
        viewpoint, field = left.pop(int(np.argmin(lengths)))
        if drive.to(viewpoint, field, math.inf):
            drive.turn(2 * math.pi)
    return drive.recording()


def _viewpoints(layout: Layout, drive: _Drive) -> list[NDArray[np.float64]]:
    """Return positions [2], one of them near every place in its room that the robot can reach.

    Of each room, the next one is always where the most places are near that have none so far.
    """
    from_robot = drive.field(drive.robot.pose)
    places = (np.argwhere(drive.costs.free) + 0.5) * CELL_M
    places = places[[math.isfinite(from_robot.length(place)) for place in places]]
    rooms = np.array([layout.room_at(x, y) for x, y in places])
    viewpoints = []
    for room in np.unique(rooms):
        inside = places[rooms == room]
        is_near = np.hypot(*(inside[:, None] - inside).transpose(2, 0, 1)) <= _SURVEYED_M
        is_left = np.ones(len(inside), np.bool_)
        while is_left.any():
            best = int((is_near & is_left).sum(axis=1).argmax())
            viewpoints.append(inside[best])
            is_left &= ~is_near[best]
    return viewpoints


class _Drive:
    """A drive in progress, with the recording so far."""

    def __init__(self, layouts: PackedLayouts, robot: SimulatedRobot) -> None:
        self._layouts = layouts
        self.costs = CostMap(layouts, 0)
        self.robot = robot
        self._poses: list[Pose] = [robot.pose]
        self._wheels: list[Pose] = [np.zeros(3)]
        self._commands: list[Command] = []

    def recording(self) -> Recording:
        self._hold(np.zeros(2), round(0.5 / TICK_S))
        # The command that ended the drive.
        commands = np.array([*self._commands, np.zeros(2)])
        return Recording(np.array(self._poses), np.array(self._wheels), commands)

    def field(self, goal: Pose) -> DistanceField:
        """Return the lengths of the shortest paths to a goal."""
        return DistanceField(self._layouts, 0, goal, costs=self.costs)

    def to(self, goal: Pose, field: DistanceField, length_m: float) -> bool:
        """Drive near a goal by its field, or until the path has a length; return whether that worked."""
        for _ in range(round(_MAX_S / TICK_S / _COMMAND_TICKS)):
            pose = self.robot.pose
            if self.robot.path_m >= length_m or math.hypot(*(goal[:2] - pose[:2])) < _ARRIVED_M:
                return True
            self._hold(steer(pose, *field.waypoint(pose), CRUISE_MPS), _COMMAND_TICKS)
        return False

    def turn(self, angle: float) -> None:
        """Turn on the spot."""
        self._hold(np.array([0.0, _TURN_RADPS]), round(angle / _TURN_RADPS / TICK_S))

    def _hold(self, command: Command, ticks: int) -> None:
        for _ in range(ticks):
            self._commands.append(command)
            self.robot.drive(command, 1)
            self._poses.append(self.robot.pose)
            self._wheels.append(self.robot.read_odometry())
