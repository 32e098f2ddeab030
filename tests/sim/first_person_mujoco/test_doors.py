"""Closed doors in MuJoCo."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sim.first_person_mujoco.mujoco_scenes import MuJoCoScene, scene  # isort: skip

from jepa_sim.closed_loop.first_person.floors import SHORTEST_PATH, floors
from jepa_sim.closed_loop.first_person.protocol import drive, mission_of
from jepa_sim.worlds.first_person.levels import LEVELS
from jepa_sim.worlds.first_person.motion import ROBOT_RADIUS_M, TICK_S
from tests.sim.first_person.houses import SIZE_M, pose, two_rooms

HOUSE = two_rooms(door=True)
LEAF_X = SIZE_M - HOUSE.door_leaf(0).half_size[0]
AHEAD = np.array([0.5, 0.0])


def test_mujoco_robot_stops_at_a_closed_door_of_its_scene_only() -> None:
    closed, opened = scene(HOUSE), scene(HOUSE)
    before = closed.robot(pose(2.0, 2.0))
    assert closed.close_door(0)
    for robot in (before, closed.robot(pose(2.0, 2.0))):
        robot.drive(AHEAD, round(6.0 / TICK_S))
        assert robot.pose[0] == pytest.approx(LEAF_X - ROBOT_RADIUS_M, abs=5e-3)
        assert robot.contacts == 1
    passing = opened.robot(pose(2.0, 2.0))
    passing.drive(AHEAD, round(6.0 / TICK_S))
    assert passing.pose[0] > SIZE_M and passing.contacts == 0


def test_mujoco_cameras_see_a_closed_door() -> None:
    seen, closed_before = scene(HOUSE), scene(HOUSE)
    robot = seen.robot(pose(2.0, 2.0))
    middle = np.s_[30:42, 40:56]
    opened = robot.read_camera()[middle].astype(int)
    seen.close_door(0)
    closed_before.close_door(0)
    expected = closed_before.images(robot.pose[None])[0][middle].astype(int)
    assert np.abs(expected - opened).mean() > 10
    for image in (robot.read_camera(), seen.images(robot.pose[None])[0]):
        assert np.abs(image[middle] - expected).mean() < 5
    for each in (seen, closed_before):
        each.close()


def test_mujoco_door_does_not_close_on_a_robot() -> None:
    blocked = scene(HOUSE)
    robot = blocked.robot(pose(SIZE_M, 2.0))
    assert not blocked.close_door(0)
    robot.drive(AHEAD, round(1.0 / TICK_S))
    assert robot.pose[0] > SIZE_M + ROBOT_RADIUS_M and robot.contacts == 0
    assert blocked.close_door(0)


def test_mujoco_repeated_route_with_a_closed_door_ends_at_the_door() -> None:
    level = LEVELS["TR"]
    mission, driver = mission_of(level, 0, MuJoCoScene), floors(level)[SHORTEST_PATH]
    blocked = drive(level, mission.with_closed_door(), driver, seed=0)
    assert not blocked.reached and blocked.contacts > 0
