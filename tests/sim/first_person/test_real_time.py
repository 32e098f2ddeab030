"""A robot on a route in time that passes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.errors import WorldError
from jepa_runtime.util import relative
from jepa_sim.closed_loop.first_person.real_time import RouteSimulation, route_mission
from jepa_sim.worlds.first_person.levels import is_reached
from jepa_sim.worlds.first_person.motion import TICK_S
from jepa_sim.worlds.first_person.paths import TrajectoryFollower
from tests.errors import code

# A route through two different doors.
SEED = 8


def turning(_: float) -> np.ndarray:
    return np.array([0.0, 1.0])


@pytest.fixture(scope="module")
def opened() -> Iterator[RouteSimulation]:
    simulation = RouteSimulation(SEED)
    yield simulation
    simulation.close()


@pytest.fixture
def simulation(opened: RouteSimulation) -> RouteSimulation:
    opened.reset(displaced=False)
    return opened


def follow_route(simulation: RouteSimulation, limit_s: float = 60.0) -> bool:
    """Drive along the route by the true pose, and return whether its end was reached."""
    recording, mission = simulation.mission.recording, simulation.mission
    assert recording is not None
    follow = TrajectoryFollower(recording.poses)
    while simulation.time_s < limit_s:
        pose = simulation.read(simulation.time_s).true_pose
        command = follow(pose, simulation.time_s)
        if command is None:
            return is_reached(mission.goal, pose)
        simulation.advance(simulation.time_s + 2 * TICK_S, partial(_held, command))
    return False


def _held(command: np.ndarray, _: float) -> np.ndarray:
    return command


def test_robot_starts_on_the_route_and_is_set_back_off_its_start(simulation: RouteSimulation) -> None:
    recording = simulation.mission.recording
    assert recording is not None
    np.testing.assert_allclose(simulation.read(0.0).true_pose, recording.poses[0], atol=1e-9)
    simulation.advance(1.0, turning)
    simulation.reset(displaced=True)
    first = simulation.read(0.0)
    np.testing.assert_allclose(relative(first.true_pose, simulation.mission.start), 0.0, atol=1e-9)
    assert 0.01 < np.hypot(*(first.true_pose - recording.poses[0])[:2]) < 0.6
    assert simulation.time_s == 0.0 and (first.odometry == 0.0).all()


def test_sensors_between_two_ticks_are_interpolated(simulation: RouteSimulation) -> None:
    simulation.advance(1.0, turning)
    start = simulation.read(1.0)
    simulation.advance(1.0 + TICK_S, turning)
    middle, end = simulation.read(1.0 + TICK_S / 2), simulation.read(1.0 + TICK_S)
    turn = relative(start.true_pose, end.true_pose)[2]
    assert turn == pytest.approx(TICK_S, rel=0.01)
    assert relative(start.true_pose, middle.true_pose)[2] == pytest.approx(turn / 2)
    measured = relative(start.odometry, middle.odometry)[2]
    assert measured == pytest.approx(relative(start.odometry, end.odometry)[2] / 2)
    assert end.velocity[1] == pytest.approx(1.0, rel=0.2) and end.velocity[0] == pytest.approx(0.0, abs=0.01)
    assert start.image.shape == (72, 96, 3) and (start.image != end.image).mean() > 0.3


def test_time_that_passes_takes_the_command_of_each_tick(simulation: RouteSimulation) -> None:
    asked: list[float] = []

    def command(time_s: float) -> np.ndarray:
        asked.append(time_s)
        return np.zeros(2)

    simulation.advance(0.06, command)
    assert asked == pytest.approx([0.0, TICK_S, 2 * TICK_S])
    simulation.advance(0.07, command)
    assert len(asked) == 3 and simulation.time_s == pytest.approx(3 * TICK_S)


def test_driver_who_knows_the_pose_reaches_the_end_unless_a_door_is_closed(
    simulation: RouteSimulation,
) -> None:
    assert follow_route(simulation) and simulation.doors >= 2
    simulation.reset(displaced=True)
    simulation.close_door(-1)
    assert not follow_route(simulation) and simulation.contacts > 0
    simulation.reset(displaced=True)
    assert follow_route(simulation), "a reset opens the doors"


def test_door_that_the_route_does_not_have_is_an_error(simulation: RouteSimulation) -> None:
    with pytest.raises(WorldError, check=code("sim.no_door")):
        simulation.close_door(simulation.doors)


def test_house_of_a_seed_is_always_the_same(simulation: RouteSimulation) -> None:
    np.testing.assert_array_equal(route_mission(SEED).goal, simulation.mission.goal)
    assert (route_mission(SEED + 1).goal != simulation.mission.goal).any()
