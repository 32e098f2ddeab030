"""Drivers to compare with: they know more than a robot does, or nothing, or have no model of the world."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jepa_runtime.util import Pose, compose
from jepa_sim.closed_loop.first_person.cloned_policy import ClonedPolicy
from jepa_sim.closed_loop.first_person.cloning_driver import cloning_driver
from jepa_sim.closed_loop.first_person.protocol import (
    PERIOD_S,
    Assignment,
    Driver,
    Observation,
    Policy,
    TruePoseDriver,
)
from jepa_sim.worlds.first_person.levels import Level, Mission, is_reached
from jepa_sim.worlds.first_person.motion import MAX_SPEED_MPS, MAX_TURN_RADPS, MIN_SPEED_MPS
from jepa_sim.worlds.first_person.paths import (
    Command,
    PathFollower,
    ShortestPathController,
    drive_straight,
)

# Decisions for which random commands are held.
_HELD = 3
SHORTEST_PATH = "shortest path by true pose"


def floors(level: Level, policy: ClonedPolicy | None = None) -> dict[str, Driver | TruePoseDriver]:
    """Return the floors of a level by name.

    Args:
        level: The level.
        policy: The policy of behavior cloning; None: without this floor.
    """
    found: dict[str, Driver | TruePoseDriver] = {
        "random, stops by true pose": TruePoseDriver(_random),
        "straight by true pose": TruePoseDriver(_straight),
    }
    if level.name.startswith("TR"):
        found["odometry only"] = odometry_only()
    if policy is not None:
        found["behavior cloning"] = cloning_driver(policy)
    return found | {SHORTEST_PATH: TruePoseDriver(_shortest_path)}


def odometry_only() -> Driver:
    """Return the floor that follows the odometry of a route without looking."""
    return Driver(_odometry_only)


def _random(mission: Mission, rng: np.random.Generator) -> Callable[[Pose], Command | None]:
    held: list[Command] = []

    def decide(pose: Pose) -> Command | None:
        if is_reached(mission.goal, pose):
            return None
        if not held:
            low, high = (MIN_SPEED_MPS, -MAX_TURN_RADPS), (MAX_SPEED_MPS, MAX_TURN_RADPS)
            held.extend([rng.uniform(low, high)] * _HELD)
        return held.pop()

    return decide


def _straight(mission: Mission, _rng: np.random.Generator) -> Callable[[Pose], Command | None]:
    return lambda pose: drive_straight(pose, mission.goal)


def _shortest_path(mission: Mission, _rng: np.random.Generator) -> Callable[[Pose], Command | None]:
    return ShortestPathController(mission.packed, 0, mission.goal)


def _odometry_only(assignment: Assignment, _rng: np.random.Generator) -> Policy:
    """Follow the odometry of the recording, as if the robot stood exactly at its end of it."""
    path = assignment.recorded_odometry(PERIOD_S)
    if assignment.is_return:
        path = path[::-1]
    follow, start = PathFollower(path), path[0]

    def decide(observation: Observation) -> Command | None:
        return follow(compose(start, observation.odometry))

    return decide
