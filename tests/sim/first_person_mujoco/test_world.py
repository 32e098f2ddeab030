"""First-person rooms in MuJoCo as worlds, and the levels with their floors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.sim.first_person_mujoco.mujoco_scenes import MuJoCoScene  # isort: skip

from jepa_runtime.util import relative
from jepa_sim.closed_loop.episodes import run_episode, straight_line
from jepa_sim.closed_loop.first_person.floors import SHORTEST_PATH, floors
from jepa_sim.closed_loop.first_person.protocol import (
    Assignment,
    Demonstration,
    Drive,
    Driver,
    Observation,
    Policy,
    drive,
    mission_of,
)
from jepa_sim.worlds import HasStraightLine, World, make_world
from jepa_sim.worlds.first_person.levels import LEVELS
from jepa_sim.worlds.first_person.paths import Command
from jepa_sim.worlds.first_person.world import FirstPersonRooms


@pytest.fixture(scope="module")
def world() -> Iterator[FirstPersonRooms]:
    made = make_world("first_person_mujoco_l1")
    assert isinstance(made, FirstPersonRooms)
    yield made
    made.close()


def driven(name: str, driver: str, episodes: int) -> list[Drive]:
    level = LEVELS[name]
    chosen = floors(level)[driver]
    return [drive(level, mission_of(level, seed, MuJoCoScene), chosen, seed=seed) for seed in range(episodes)]


def test_mujoco_world_has_the_task_of_the_training_world(world: FirstPersonRooms) -> None:
    assert isinstance(world, World) and isinstance(world, HasStraightLine)
    trained = make_world("first_person_l1").task
    for name in ("action_names", "action_units", "low", "high", "tolerance", "max_steps", "tick_s"):
        assert getattr(world.task, name) == getattr(trained, name)
    assert world.task.has_sensor_noise


def test_mujoco_episode_follows_from_its_seed(world: FirstPersonRooms) -> None:
    def seen(seed: int) -> list[np.ndarray]:
        world.reset(seed)
        goal, start = world.render_goal(), world.render()
        world.step(np.array([0.5, 0.5]), 0.3)
        return [goal, start, world.render()]

    first = seen(5)
    assert all(image.shape == (72, 96, 3) and image.dtype == np.uint8 for image in first)
    np.testing.assert_array_equal(first, seen(5))
    assert not np.array_equal(first[1], seen(6)[1])


def test_mujoco_straight_line_reaches_near_goals() -> None:
    near = make_world("first_person_mujoco_l0")
    outcomes = [run_episode(near, straight_line(), seed=seed, step_s=0.1).outcome for seed in range(3)]
    near.close()
    assert outcomes == ["reached"] * 3


def test_mujoco_missions_without_a_recording_are_those_of_the_training_world() -> None:
    level = LEVELS["L1"]
    one, other = mission_of(level, 3), mission_of(level, 3, MuJoCoScene)
    assert one.layout == other.layout
    np.testing.assert_array_equal([one.start, one.goal], [other.start, other.goal])


@pytest.mark.parametrize("name", ["L0", "L1", "TR"])
def test_mujoco_level_is_solved_by_the_shortest_path(name: str) -> None:
    drives = driven(name, SHORTEST_PATH, 2)
    assert [each.reached and each.stopped for each in drives] == [True] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", LEVELS)
def test_mujoco_shortest_path_reaches_nearly_every_goal(name: str) -> None:
    assert sum(each.reached for each in driven(name, SHORTEST_PATH, 20)) >= 19


def test_mujoco_recording_is_driven_in_mujoco_with_its_odometry() -> None:
    mission = mission_of(LEVELS["TR"], 0, MuJoCoScene)
    assert mission.recording is not None
    poses, odometry = mission.recording.poses, mission.recording.odometry
    assert 10.0 <= mission.recording.length_m <= 25.0
    # Errors of a few percent, far below the length of the route, but not zero.
    off = np.hypot(*(relative(poses[0], poses[-1]) - odometry[-1])[:2])
    assert 0.01 < off < 0.3 * mission.recording.length_m


@pytest.mark.parametrize("period_s", [0.11, 0.4])
def test_mujoco_driver_sees_the_recording_the_goal_and_its_odometry(period_s: float) -> None:
    """The route ends at the goal pose, so the last image of the recording is the goal image, up to noise."""
    shown: list[Demonstration] = []
    seen: list[Observation] = []

    def begin(assignment: Assignment, _rng: np.random.Generator) -> Policy:
        shown.append(assignment.demonstration(period_s))
        goal = assignment.goal_image().astype(int)
        assert goal.shape == (72, 96, 3)
        assert np.abs(goal - shown[0].images[-1]).mean() < 4.0 < np.abs(goal - shown[0].images[0]).mean()

        def decide(observation: Observation) -> Command | None:
            seen.append(observation)
            assert observation.image.shape == (72, 96, 3) and observation.image.dtype == np.uint8
            return None if len(seen) == 4 else np.array([0.3, 0.5])

        return decide

    level, mission = LEVELS["TR"], mission_of(LEVELS["TR"], 0, MuJoCoScene)
    result = drive(level, mission, Driver(begin), seed=0)
    assert result.stopped and len(seen) == 4
    times_s, images, odometry = shown[0].times_s, shown[0].images, shown[0].odometry
    assert images.shape == (len(times_s), 72, 96, 3) and odometry.shape == (len(times_s), 3)
    np.testing.assert_allclose(np.diff(times_s)[:-1], period_s)
    np.testing.assert_array_equal(odometry[0], 0.0)
    np.testing.assert_array_equal(seen[0].odometry, 0.0)
    assert seen[-1].odometry[0] > 0.02 and seen[-1].odometry[2] > 0.02
    assert not np.array_equal(seen[0].image, seen[-1].image)
