"""Motion of the first-person robot: lag, arcs, contact; and its odometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_sim.worlds.first_person.layouts import HALF_WALL_M, pack, sample_layout
from jepa_sim.worlds.first_person.motion import (
    LAG_S,
    MAX_SPEED_MPS,
    MAX_TURN_RADPS,
    ROBOT_RADIUS_M,
    TICK_S,
    Robot,
    clearance,
)
from jepa_sim.worlds.first_person.odometry import DRIFT_RAD_PER_SQRT_M, SCALE_ERROR, WheelOdometry
from jepa_sim.worlds.first_person.recordings import free_pose
from tests.sim.first_person.houses import SIZE_M, box, one_room, packed, pose

# What remains where a corner pushes the robot into another solid.
SLACK_M = 0.02


def robot(*at: float, furniture: tuple[object, ...] = ()) -> Robot:
    return Robot(packed(one_room(*furniture)), 0, pose(*at))  # type: ignore[arg-type]


def ticks(seconds: float) -> int:
    return round(seconds / TICK_S)


def test_straight_drive_lags_behind_the_command() -> None:
    moved = robot(0.5, 2.0)
    moved.drive(np.array([0.5, 0.0]), ticks(4.0))
    x, y, heading = moved.pose
    # The lag costs the path of its time constant, less what a tick of discrete time adds.
    assert x == pytest.approx(0.5 + 0.5 * (4.0 - LAG_S + TICK_S), abs=1e-3)
    assert (y, heading) == (2.0, 0.0)
    assert moved.path_m == pytest.approx(x - 0.5) and moved.contacts == 0


def test_arc_has_the_radius_of_speed_by_turn_rate() -> None:
    moved = robot(1.5, 2.0)
    moved.drive(np.array([0.4, 1.0]), ticks(1.0))
    begin = moved.pose
    center = begin[:2] + 0.4 * np.array([-math.sin(begin[2]), math.cos(begin[2])])
    for _ in range(20):
        moved.drive(np.array([0.4, 1.0]), ticks(0.2))
        assert np.hypot(*(moved.pose[:2] - center)) == pytest.approx(0.4, abs=2e-3)
    assert moved.pose[2] - begin[2] == pytest.approx(4.0, abs=1e-3)


def test_command_beyond_the_limits_is_limited() -> None:
    fast, limited = robot(0.5, 2.0), robot(0.5, 2.0)
    fast.drive(np.array([9.0, -9.0]), ticks(1.0))
    limited.drive(np.array([MAX_SPEED_MPS, -MAX_TURN_RADPS]), ticks(1.0))
    np.testing.assert_array_equal(fast.pose, limited.pose)


def test_robot_slides_along_a_wall_while_its_wheels_drive_on() -> None:
    moved = robot(0.5, SIZE_M - 0.6, math.radians(30))
    moved.drive(np.array([0.5, 0.0]), ticks(4.0))
    x, y, heading = moved.pose
    assert y == pytest.approx(SIZE_M - HALF_WALL_M - ROBOT_RADIUS_M, abs=1e-3)
    assert x == pytest.approx(0.5 + 0.5 * (4.0 - LAG_S + TICK_S) * math.cos(math.radians(30)), abs=1e-2)
    assert heading == pytest.approx(math.radians(30))
    assert moved.contacts == 1
    wheels = moved.wheel_pose
    assert wheels[0] == pytest.approx(0.5 * (4.0 - LAG_S + TICK_S), abs=1e-3) and wheels[1] == 0.0


def test_robot_stops_at_a_box_ahead_and_counts_each_contact() -> None:
    moved = robot(1.0, 2.0, furniture=(box((2.5, 2.0), (0.2, 0.4), top=0.5),))
    for contacts in (1, 2):
        moved.drive(np.array([0.5, 0.0]), ticks(4.0))
        assert moved.pose[0] == pytest.approx(2.3 - ROBOT_RADIUS_M, abs=1e-3)
        assert moved.contacts == contacts
        moved.drive(np.array([-0.2, 0.0]), ticks(2.0))


def test_robot_passes_below_a_picture() -> None:
    moved = robot(1.0, 2.0, furniture=(box((2.0, 2.0), (0.1, 0.5), bottom=0.7, top=1.2),))
    moved.drive(np.array([0.5, 0.0]), ticks(4.0))
    assert moved.pose[0] > 2.5 and moved.contacts == 0


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    commands=st.lists(st.tuples(st.floats(-0.2, 0.8), st.floats(-1.5, 1.5)), min_size=1, max_size=30),
)
def test_robot_is_never_inside_a_solid(seed: int, commands: list[tuple[float, float]]) -> None:
    rng = np.random.default_rng(seed)
    layout = sample_layout(rng, held_out=True)
    layouts = pack([layout])
    moved = Robot(layouts, 0, free_pose(layouts, layout, rng))
    for command in commands:
        moved.drive(np.array(command), 12)
        x, y, _ = moved.pose
        assert clearance(x, y, layouts.solids[0], int(layouts.solid_count[0])) > -SLACK_M
        assert 0 < x < layout.size[0] and 0 < y < layout.size[1]


def test_odometry_errors_have_the_declared_size() -> None:
    """Ten meters straight ahead, 400 robots."""
    ends = []
    for seed in range(400):
        odometry = WheelOdometry(np.random.default_rng(seed))
        for step in range(1, 101):
            odometry.update(np.array([0.1 * step, 0.0, 0.0]))
        ends.append(odometry.pose)
    x, y, heading = np.array(ends).T
    # Drift shortens the path a little; sideways, it is an integral of a random walk.
    assert x.mean() == pytest.approx(10.0, abs=0.05)
    assert x.std() == pytest.approx(10.0 * SCALE_ERROR, rel=0.1)
    assert heading.std() == pytest.approx(DRIFT_RAD_PER_SQRT_M * math.sqrt(10), rel=0.1)
    assert y.std() == pytest.approx(DRIFT_RAD_PER_SQRT_M * math.sqrt(10**3 / 3), rel=0.15)


def test_odometry_of_a_robot_at_rest_stays() -> None:
    odometry = WheelOdometry(np.random.default_rng(0))
    odometry.update(np.array([1.0, 0.5, 0.3]))
    before = odometry.pose
    odometry.update(np.array([1.0, 0.5, 0.3]))
    np.testing.assert_array_equal(odometry.pose, before)


def test_odometry_errors_do_not_depend_on_the_rate_of_updates() -> None:
    spreads = []
    for updates in (10, 100):
        headings = []
        for seed in range(400):
            odometry = WheelOdometry(np.random.default_rng(seed))
            for step in np.linspace(0, 1, updates + 1)[1:]:
                odometry.update(np.array([0.0, 0.0, 3.0 * step]))
            headings.append(odometry.pose[2])
        spreads.append(np.std(headings))
    assert spreads[0] == pytest.approx(spreads[1], rel=0.1)
