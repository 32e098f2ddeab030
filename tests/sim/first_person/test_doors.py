"""Doors that are closed: what fills them, what stops the robot, and what its camera sees."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_sim.closed_loop.first_person.floors import SHORTEST_PATH, floors
from jepa_sim.closed_loop.first_person.protocol import Drive, drive, mission_of
from jepa_sim.worlds.first_person.layouts import DOOR_HEIGHT_M, PackedLayouts, sample_layout
from jepa_sim.worlds.first_person.levels import LEVELS, Mission
from jepa_sim.worlds.first_person.motion import ROBOT_RADIUS_M, TICK_S
from jepa_sim.worlds.first_person.scene import RayCastScene
from tests.sim.first_person.houses import SIZE_M, packed, pose, two_rooms

HOUSE = two_rooms(door=True)
LEAF_X = SIZE_M - HOUSE.door_leaf(0).half_size[0]
AHEAD = np.array([0.5, 0.0])


def scene(layouts: PackedLayouts | None = None) -> RayCastScene:
    return RayCastScene(HOUSE, layouts or packed(HOUSE), np.random.default_rng(0))


def shortest(mission: Mission) -> Drive:
    level = LEVELS["TR"]
    return drive(level, mission, floors(level)[SHORTEST_PATH], seed=0)


def test_door_leaf_fills_the_opening_with_a_texture_of_its_own() -> None:
    layout = sample_layout(np.random.default_rng(0), held_out=True, shape=(3, 2))
    surfaces = {surface for room in layout.rooms for surface in (room.floor, room.ceiling)}
    shown = surfaces | {each.texture for each in (*layout.walls, *layout.pictures, *layout.furniture)}
    for number, door in enumerate(layout.doors):
        leaf = layout.door_leaf(number)
        assert leaf.texture not in shown and (leaf.bottom, leaf.top) == (0.0, DOOR_HEIGHT_M)
        assert leaf.center == door.center
        assert leaf.half_size[1 if door.is_crossed_along_x else 0] == door.width / 2


def test_layout_names_the_doors_that_a_path_passes_in_its_order() -> None:
    there = np.linspace((1.0, 2.0), (6.0, 2.0), 20)
    assert HOUSE.doors_on(there) == [0]
    assert HOUSE.doors_on(np.concatenate([there, there[::-1]])) == [0, 0]
    assert HOUSE.doors_on(there[:5]) == HOUSE.doors_on(np.zeros((0, 2))) == []


def test_robot_stops_at_a_closed_door_of_its_scene_only() -> None:
    layouts = packed(HOUSE)
    closed, opened = scene(layouts), scene(layouts)
    before = closed.robot(pose(2.0, 2.0))
    assert closed.close_door(0)
    for robot in (before, closed.robot(pose(2.0, 2.0))):
        robot.drive(AHEAD, round(6.0 / TICK_S))
        assert robot.pose[0] == pytest.approx(LEAF_X - ROBOT_RADIUS_M, abs=1e-6)
        assert robot.contacts == 1
    passing = opened.robot(pose(2.0, 2.0))
    passing.drive(AHEAD, round(6.0 / TICK_S))
    assert passing.pose[0] > SIZE_M and passing.contacts == 0


def test_closed_door_hides_the_dark_room_behind_it() -> None:
    seen = scene()
    robot = seen.robot(pose(2.0, 2.0))
    middle = np.s_[30:42, 40:56]
    dark = robot.read_camera()[middle].mean()
    seen.close_door(0)
    for image in (robot.read_camera(), seen.images(robot.pose[None])[0]):
        assert image[middle].mean() > 2 * dark


def test_door_does_not_close_on_a_robot() -> None:
    blocked = scene()
    robot = blocked.robot(pose(SIZE_M, 2.0))
    assert not blocked.close_door(0)
    robot.drive(AHEAD, round(1.0 / TICK_S))
    assert robot.pose[0] > SIZE_M + ROBOT_RADIUS_M and robot.contacts == 0
    assert blocked.close_door(0) and blocked.close_door(0)


def test_repeated_route_with_a_closed_door_ends_at_the_door() -> None:
    mission = mission_of(LEVELS["TR"], 0)
    assert shortest(mission).reached
    blocked = shortest(mission.with_closed_door())
    assert (blocked.reached, blocked.stopped) == (False, False) and blocked.contacts > 0
    assert blocked.time_s == pytest.approx(mission.time_limit_s, abs=0.1)


def test_door_that_closes_behind_the_robot_stops_nobody() -> None:
    mission = mission_of(LEVELS["TR"], 0)
    took = shortest(mission)
    late = shortest(mission.with_closed_door(after_s=took.time_s - 0.5))
    assert late.reached and late.contacts == took.contacts


def test_closed_doors_are_counted_from_the_start_of_the_robot() -> None:
    mission = mission_of(LEVELS["TR-back"], 0)
    assert mission.recording is not None
    passed = mission.layout.doors_on(mission.recording.poses)
    closing = [mission.with_closed_door(nth).door_closing for nth in range(len(passed))]
    assert [each.door for each in closing if each is not None] == passed[::-1]


def test_mission_without_a_recording_has_no_doors_on_the_way() -> None:
    with pytest.raises(ValueError):
        mission_of(LEVELS["L2"], 0).with_closed_door()
