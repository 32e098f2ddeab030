"""Levels: what the robot has to do, from a goal within reach to a route through the house.

| level | goal |
|---|---|
| L0 | 0.4 to 1 m away, turned within 60 degrees, nothing in between |
| L1 | in the same room, 1 to 3 m away, bearing and heading within 90 degrees |
| L2 | in the next room, through a door, over a shortest path of 1.5 to 6 m |
| L2-tour | the same goals as L2, after a tour of the house |
| L2-survey | the same goals as L2, after a longer tour, which surveys the house |
| L3 | over a shortest path of 6 to 15 m and at least two doors, after a tour of the house |
| L3-survey | the same goals as L3, after a tour that surveys the house |
| TR | the end of a route of 10 to 20 m through doors, which was shown once |
| TR-back | the start of the same route, from its end |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose, relative
from jepa_sim.worlds.first_person.layouts import Layout, PackedLayouts, Shape, pack, sample_layout
from jepa_sim.worlds.first_person.motion import clearance
from jepa_sim.worlds.first_person.paths import DistanceField, path_length
from jepa_sim.worlds.first_person.recordings import (
    Recording,
    free_pose,
    record_route,
    record_survey,
    record_tour,
)
from jepa_sim.worlds.first_person.scene import RayCastScene, Scene, Simulator

TOLERANCE_M, TOLERANCE_RAD = 0.3, math.radians(20)
_FREE_M = 0.05
_L0_M, _L0_TURN_RAD = (0.4, 1.0), math.radians(60)
_L1_M, _L1_TURN_RAD = (1.0, 3.0), math.radians(90)
_L2_M = (1.5, 6.0)
_L3_M, _L3_DOORS = (6.0, 15.0), 2
_ROUTE_M = 10.0, 20.0
# A route is repeated from a start that is displaced at random.
_DISPLACED_M, _DISPLACED_RAD = 0.12, math.radians(7)
_DISPLACED_FREE_M = 0.02
# Time to repeat a route, in relation to its duration; and the way back, which may be driven in reverse.
_REPEAT_TIME, _BACK_S_PER_M, _EXTRA_S = 1.6, 6.25, 4.0
# More rooms than a layout has at times, for the levels that need them.
_ROOMS: tuple[Shape, ...] = ((2, 1), (3, 1), (2, 2), (3, 2))
_LARGE: tuple[Shape, ...] = ((3, 1), (2, 2), (3, 2))
_TRIES = 60


@dataclass(frozen=True)
class DoorClosing:
    """A door that is closed during an episode, as soon as no robot stands in it.

    Attributes:
        door: Number of the door.
        after_s: Time since the start.
    """

    door: int
    after_s: float


@dataclass(frozen=True, kw_only=True)
class Mission:
    """An episode before the robot moves.

    Attributes:
        layout: The house.
        packed: The same as arrays: one layout.
        start: Pose at which the robot starts.
        goal: Pose at which it shall stop.
        time_limit_s: Time that it has.
        simulator: What simulates it.
        recording: What it was shown before: a tour of the house, or a route; None: nothing.
        is_return: Whether it starts at the end of that recording.
        is_tour: Whether that recording is a tour, through which the robot has to find its own way.
        door_closing: The door that is closed meanwhile; None: all doors stay open.
    """

    layout: Layout
    packed: PackedLayouts
    start: Pose
    goal: Pose
    time_limit_s: float
    simulator: Simulator
    recording: Recording | None = None
    is_return: bool = False
    is_tour: bool = False
    door_closing: DoorClosing | None = None

    def with_closed_door(self, nth: int = 0, *, after_s: float = 0.0) -> Mission:
        """Return the same mission with a door closed that is open in the recording.

        Args:
            nth: Which of the doors on the way, counted from the robot's start; -1: the last one.
            after_s: Time since the start of the episode at which it is closed.

        Raises:
            ValueError: The level has no recording.
        """
        if self.recording is None:
            raise ValueError("only a level with a recording has doors on the way")
        doors = self.layout.doors_on(self.recording.poses)
        door = (doors[::-1] if self.is_return else doors)[nth]
        return replace(self, door_closing=DoorClosing(door, after_s))

    def open_scene(self, rng: np.random.Generator) -> Scene:
        """Open the scene, which the caller closes.

        Args:
            rng: Random numbers of all sensors.
        """
        return self.simulator(self.layout, self.packed, rng)


@dataclass(frozen=True)
class Level:
    """A level.

    Attributes:
        name: Its name.
        goal: What the robot has to do, for people.
        sampler: Returns a random mission in random houses.
    """

    name: str
    goal: str
    sampler: Callable[[Houses], Mission]

    def sample(
        self, rng: np.random.Generator, held_out: bool, simulator: Simulator = RayCastScene
    ) -> Mission:
        """Return a random mission.

        Args:
            rng: Random numbers.
            held_out: Whether to use held-out textures.
            simulator: What simulates the mission and what the robot was shown before.
        """
        return self.sampler(Houses(rng, held_out, simulator))


@dataclass(frozen=True)
class Houses:
    """Random houses.

    Attributes:
        rng: Random numbers.
        held_out: Whether they have held-out textures.
        simulator: What simulates them.
    """

    rng: np.random.Generator
    held_out: bool
    simulator: Simulator

    def draw(self, shapes: tuple[Shape, ...] | None = None) -> _House:
        """Return a house with one of these numbers of columns and rows, or with random ones."""
        shape = None if shapes is None else shapes[self.rng.integers(len(shapes))]
        layout = sample_layout(self.rng, held_out=self.held_out, shape=shape)
        return _House(self.rng, layout, self.simulator)


def goal_error(goal: Pose, pose: Pose) -> tuple[float, float]:
    """Return distance [m] and angle [rad] between a pose and the goal pose."""
    x, y, turn = relative(goal, pose)
    return math.hypot(x, y), abs(float(turn))


def is_reached(goal: Pose, pose: Pose) -> bool:
    """Return whether a pose counts as the goal: within 0.3 m and 20 degrees."""
    distance, turn = goal_error(goal, pose)
    return distance <= TOLERANCE_M and turn <= TOLERANCE_RAD


def _sample_l0(houses: Houses) -> Mission:
    while True:
        house = houses.draw()
        for _ in range(_TRIES):
            start = house.free_pose()
            goal = _ahead(houses.rng, start, _L0_M, _L0_TURN_RAD)
            if house.is_free(goal) and house.is_clear_between(start, goal):
                return house.mission(start, goal, time_limit_s=12.0)


def _sample_l1(houses: Houses) -> Mission:
    while True:
        house = houses.draw()
        for _ in range(_TRIES):
            start = house.free_pose()
            goal = _ahead(houses.rng, start, _L1_M, _L1_TURN_RAD)
            if house.is_free(goal) and house.room(start) == house.room(goal) and len(house.path(start, goal)):
                return house.mission(start, goal, time_limit_s=24.0)


def _sample_l2(houses: Houses, *, tour_of: Callable[[_House], Recording] | None = None) -> Mission:
    while True:
        house = houses.draw(_ROOMS)
        for _ in range(_TRIES):
            start, goal = house.free_pose(), house.free_pose()
            if not house.are_joined(start, goal):
                continue
            path = house.path(start, goal)
            if len(house.layout.doors_on(path)) == 1 and _L2_M[0] <= path_length(path) <= _L2_M[1]:
                tour = None if tour_of is None else tour_of(house)
                is_tour = tour is not None
                return house.mission(start, goal, time_limit_s=36.0, recording=tour, is_tour=is_tour)


def _sample_l3(houses: Houses, *, tour_of: Callable[[_House], Recording]) -> Mission:
    while True:
        house = houses.draw(_LARGE)
        for _ in range(_TRIES):
            start, goal = house.free_pose(), house.free_pose()
            if house.room(start) == house.room(goal):
                continue
            path = house.path(start, goal)
            if len(house.layout.doors_on(path)) >= _L3_DOORS and _L3_M[0] <= path_length(path) <= _L3_M[1]:
                tour = tour_of(house)
                return house.mission(start, goal, time_limit_s=90.0, recording=tour, is_tour=True)


def _sample_route(houses: Houses, *, back: bool) -> Mission:
    while True:
        house = houses.draw(_ROOMS)
        route = house.route(*_ROUTE_M)
        if route is None or len(house.layout.doors_on(route.poses)) < 2:
            continue
        start, goal = (route.poses[-1], route.poses[0]) if back else (route.poses[0], route.poses[-1])
        if house.room(start) == house.room(goal):
            continue
        start = house.displaced(start)
        if back:
            time_limit_s = _BACK_S_PER_M * route.length_m + _EXTRA_S
        else:
            time_limit_s = _REPEAT_TIME * route.duration_s + _EXTRA_S
        return house.mission(start, goal, time_limit_s=time_limit_s, recording=route, is_return=back)


LEVELS = {
    level.name: level
    for level in (
        Level("L0", "0.4 to 1 m away, turned within 60 degrees, nothing in between; 12 s", _sample_l0),
        Level("L1", "same room, 1 to 3 m away, bearing and heading within 90 degrees; 24 s", _sample_l1),
        Level(
            "L2",
            "next room, through a door, shortest path 1.5 to 6 m; 36 s",
            _sample_l2,
        ),
        Level(
            "L2-tour",
            "the same goals as L2, after one tour of the house; 36 s",
            lambda houses: _sample_l2(houses, tour_of=_House.tour),
        ),
        Level(
            "L2-survey",
            "the same goals as L2, after a tour that surveys the house; 36 s",
            lambda houses: _sample_l2(houses, tour_of=_House.survey),
        ),
        Level(
            "L3",
            "shortest path 6 to 15 m, two doors or more, after one tour of the house; 90 s",
            lambda houses: _sample_l3(houses, tour_of=_House.tour),
        ),
        Level(
            "L3-survey",
            "the same goals as L3, after a tour that surveys the house; 90 s",
            lambda houses: _sample_l3(houses, tour_of=_House.survey),
        ),
        Level(
            "TR",
            "teach and repeat: a route of 10 to 20 m through doors, shown once",
            lambda houses: _sample_route(houses, back=False),
        ),
        Level(
            "TR-back",
            "the same, from its end back to its start",
            lambda houses: _sample_route(houses, back=True),
        ),
    )
}
"""The levels by name, from the easiest."""


class _House:
    """A random layout, and random poses in it."""

    def __init__(self, rng: np.random.Generator, layout: Layout, simulator: Simulator) -> None:
        self._rng = rng
        self._simulator = simulator
        self.layout = layout
        self.packed = pack([layout])
        self._joined = {frozenset(door.rooms) for door in self.layout.doors}

    def mission(
        self,
        start: Pose,
        goal: Pose,
        *,
        time_limit_s: float,
        recording: Recording | None = None,
        is_return: bool = False,
        is_tour: bool = False,
    ) -> Mission:
        return Mission(
            layout=self.layout, packed=self.packed, start=start, goal=goal, time_limit_s=time_limit_s,
            simulator=self._simulator, recording=recording, is_return=is_return,
            is_tour=is_tour,
        )  # fmt: skip

    def free_pose(self) -> Pose:
        return free_pose(self.packed, self.layout, self._rng)

    def tour(self) -> Recording:
        with closing(self._simulator(self.layout, self.packed, self._rng)) as scene:
            return record_tour(self.packed, self.layout, scene.robot(self.free_pose()), self._rng)

    def survey(self) -> Recording:
        with closing(self._simulator(self.layout, self.packed, self._rng)) as scene:
            return record_survey(self.packed, self.layout, scene.robot(self.free_pose()))

    def route(self, least_m: float, most_m: float) -> Recording | None:
        start, length_m = self.free_pose(), self._rng.uniform(least_m, most_m)
        with closing(self._simulator(self.layout, self.packed, self._rng)) as scene:
            return record_route(self.packed, self.layout, scene.robot(start), length_m, self._rng)

    def is_free(self, pose: Pose, least: float = _FREE_M) -> bool:
        x, y = self.layout.size
        inside = 0 < pose[0] < x and 0 < pose[1] < y
        return (
            inside
            and clearance(pose[0], pose[1], self.packed.solids[0], int(self.packed.solid_count[0])) > least
        )

    def is_clear_between(self, start: Pose, goal: Pose) -> bool:
        return all(self.is_free(pose, 0.0) for pose in np.linspace(start, goal, 12))

    def room(self, pose: Pose) -> int:
        return self.layout.room_at(pose[0], pose[1])

    def are_joined(self, one: Pose, other: Pose) -> bool:
        return frozenset((self.room(one), self.room(other))) in self._joined

    def path(self, start: Pose, goal: Pose) -> NDArray[np.float64]:
        return DistanceField(self.packed, 0, goal).path(start)

    def displaced(self, pose: Pose) -> Pose:
        while True:
            scale = np.array([_DISPLACED_M, _DISPLACED_M, _DISPLACED_RAD])
            moved: Pose = pose + self._rng.normal(0, scale)
            if self.is_free(moved, _DISPLACED_FREE_M):
                return moved


def _ahead(rng: np.random.Generator, start: Pose, distances: tuple[float, float], turn: float) -> Pose:
    """Return a random pose at a distance, with bearing and heading within an angle of those of ``start``."""
    distance, bearing = rng.uniform(*distances), start[2] + rng.uniform(-turn, turn)
    x, y = start[0] + distance * math.cos(bearing), start[1] + distance * math.sin(bearing)
    return np.array([x, y, start[2] + rng.uniform(-turn, turn)])
