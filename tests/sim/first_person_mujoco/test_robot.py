"""Motion of the robot in MuJoCo: arcs, contact, slip, and its odometry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.sim.first_person_mujoco.mujoco_scenes import robot  # isort: skip

from jepa_runtime.util import relative
from jepa_sim.worlds.first_person.layouts import HALF_WALL_M, sample_layout
from jepa_sim.worlds.first_person.motion import (
    LAG_S,
    MAX_SPEED_MPS,
    MAX_TURN_RADPS,
    ROBOT_RADIUS_M,
    TICK_S,
    clearance,
)
from jepa_sim.worlds.first_person.recordings import free_pose
from jepa_sim.worlds.first_person_mujoco.robot import RADIUS_ERROR, SEPARATION_ERROR
from tests.sim.first_person.houses import SIZE_M, box, one_room, packed

HEAD_ON_X = SIZE_M - HALF_WALL_M - ROBOT_RADIUS_M


def ticks(seconds: float) -> int:
    return round(seconds / TICK_S)


@pytest.mark.parametrize(("speed", "turn"), [(0.4, 1.0), (0.8, 1.5), (0.3, -1.0), (-0.2, 0.5), (0.5, 0.1)])
def test_commanded_arc_ends_where_kinematics_says(speed: float, turn: float) -> None:
    moved = robot(one_room(), 2.0, 2.0)
    command = np.array([speed, turn])
    moved.drive(command, ticks(1.0))
    begin = moved.pose
    moved.drive(command, ticks(1.0))
    x, y, turned = relative(begin, moved.pose)
    expected = speed / turn * math.sin(turn), speed / turn * (1 - math.cos(turn))
    assert math.hypot(x - expected[0], y - expected[1]) < 0.03 * abs(speed)
    assert turned == pytest.approx(turn, rel=0.03)
    assert moved.contacts == 0


def test_speed_follows_a_command_with_the_lag_of_the_training_world() -> None:
    moved = robot(one_room(), 0.5, 2.0)
    moved.drive(np.array([0.5, 0.0]), ticks(4.0))
    assert moved.pose[0] - 0.5 == pytest.approx(0.5 * (4.0 - LAG_S), rel=0.01)
    assert moved.path_m == pytest.approx(moved.pose[0] - 0.5, rel=0.01)


def test_robot_turns_on_the_spot_and_its_heading_counts_whole_turns() -> None:
    moved = robot(one_room(), 2.0, 2.0)
    moved.drive(np.array([0.0, MAX_TURN_RADPS]), ticks(10.0))
    assert moved.pose[2] == pytest.approx(MAX_TURN_RADPS * (10.0 - LAG_S), rel=0.01)
    assert math.hypot(*(moved.pose[:2] - 2.0)) < 0.02
    assert abs(moved.read_odometry()[2]) <= math.pi


def test_command_beyond_the_limits_is_limited() -> None:
    fast, limited = robot(one_room(), 0.5, 2.0), robot(one_room(), 0.5, 2.0)
    fast.drive(np.array([9.0, -9.0]), ticks(1.0))
    limited.drive(np.array([MAX_SPEED_MPS, -MAX_TURN_RADPS]), ticks(1.0))
    np.testing.assert_array_equal(fast.pose, limited.pose)


def test_robot_stops_at_a_wall_while_its_wheels_spin() -> None:
    moved = robot(one_room(), 3.0, 2.0)
    moved.drive(np.array([0.5, 0.0]), ticks(4.0))
    assert moved.pose == pytest.approx([HEAD_ON_X, 2.0, 0.0], abs=5e-3)
    assert moved.contacts == 1
    assert moved.read_odometry()[0] > HEAD_ON_X - 3.0 + 0.3


def test_robot_counts_each_contact_with_furniture_once() -> None:
    moved = robot(one_room(box((2.5, 2.0), (0.2, 0.4), top=0.5)), 1.0, 2.0)
    for contacts in (1, 2):
        moved.drive(np.array([0.5, 0.0]), ticks(4.0))
        assert moved.pose[0] == pytest.approx(2.3 - ROBOT_RADIUS_M, abs=5e-3)
        assert moved.contacts == contacts
        moved.drive(np.array([-0.2, 0.0]), ticks(2.0))


def test_robot_is_turned_by_a_wall_more_than_its_odometry_says() -> None:
    moved = robot(one_room(), 0.5, SIZE_M - 0.6, math.radians(30))
    moved.drive(np.array([0.5, 0.0]), ticks(4.0))
    assert moved.pose[1] == pytest.approx(HEAD_ON_X, abs=5e-3)
    turned = moved.pose[2] - math.radians(30)
    assert turned > 0.3
    assert abs(moved.read_odometry()[2]) < turned / 2


def test_odometry_without_contact_has_the_declared_errors() -> None:
    """A curved drive of four seconds, 40 robots."""
    ratios = []
    for seed in range(40):
        moved = robot(one_room(), 1.0, 2.0, seed=seed)
        moved.drive(np.array([0.5, 0.0]), ticks(2.0))
        length = moved.read_odometry()[0] / (moved.pose[0] - 1.0)
        before = moved.read_odometry()[2]
        moved.drive(np.array([0.0, 1.0]), ticks(2.0))
        ratios.append((length, (moved.read_odometry()[2] - before) / moved.pose[2]))
    lengths, angles = np.array(ratios).T
    assert lengths.mean() == pytest.approx(1.0, abs=0.01)
    assert lengths.std() == pytest.approx(RADIUS_ERROR, rel=0.4)
    assert angles.std() == pytest.approx(math.hypot(RADIUS_ERROR, SEPARATION_ERROR), rel=0.4)


def test_robot_at_rest_stays() -> None:
    moved = robot(one_room(), 2.0, 2.0, 0.7)
    moved.drive(np.zeros(2), ticks(5.0))
    assert moved.pose == pytest.approx([2.0, 2.0, 0.7], abs=1e-3)
    assert moved.read_odometry() == pytest.approx([0.0, 0.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_robot_is_never_deep_inside_a_solid(seed: int) -> None:
    """In the layout of seed 7, it drives against the post of a door at full speed."""
    rng = np.random.default_rng(seed)
    layout = sample_layout(rng, held_out=True)
    layouts = packed(layout)
    moved = robot(layout, *free_pose(layouts, layout, rng))
    for number in range(60):
        turn = 0.0 if number % 3 == 0 else rng.uniform(-MAX_TURN_RADPS, MAX_TURN_RADPS)
        for _ in range(6):
            moved.drive(np.array([MAX_SPEED_MPS, turn]), 2)
            x, y, _ = moved.pose
            assert clearance(x, y, layouts.solids[0], int(layouts.solid_count[0])) > -0.02
            assert 0 < x < layout.size[0] and 0 < y < layout.size[1]
    assert moved.contacts > 0
