"""The levels of the first-person world, their protocol, and the floors."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.util import compose, relative, wrap
from jepa_sim.closed_loop.first_person.floors import SHORTEST_PATH, floors
from jepa_sim.closed_loop.first_person.protocol import (
    Assignment,
    Drive,
    Driver,
    Observation,
    drive,
    mission_of,
)
from jepa_sim.worlds.first_person.levels import LEVELS, Mission, goal_error
from jepa_sim.worlds.first_person.motion import clearance
from jepa_sim.worlds.first_person.paths import Command, DistanceField, path_length

EPISODES = 20


def sampled(name: str, count: int = 8) -> list[Mission]:
    return [mission_of(LEVELS[name], seed) for seed in range(count)]


def driven(name: str, driver: str, count: int = EPISODES) -> list[Drive]:
    level = LEVELS[name]
    chosen = floors(level)[driver]
    return [drive(level, mission_of(level, seed), chosen, seed=seed) for seed in range(count)]


def reached(name: str, driver: str) -> int:
    return sum(each.reached for each in driven(name, driver))


def shortest(mission: Mission) -> np.ndarray:
    return DistanceField(mission.packed, 0, mission.goal).path(mission.start)


@pytest.mark.parametrize("name", LEVELS)
def test_start_and_goal_are_free_and_apart(name: str) -> None:
    for mission in sampled(name, 4):
        for pose in (mission.start, mission.goal):
            assert (
                clearance(pose[0], pose[1], mission.packed.solids[0], int(mission.packed.solid_count[0])) > 0
            )
        assert goal_error(mission.goal, mission.start)[0] > 0.3


@pytest.mark.parametrize(
    ("name", "least", "most", "turn"), [("L0", 0.4, 1.0, 60), ("L1", 1.0, 3.0, 90)], ids=["L0", "L1"]
)
def test_near_goals_have_the_distance_and_the_angle_of_their_level(
    name: str, least: float, most: float, turn: float
) -> None:
    for mission in sampled(name):
        x, y, heading = relative(mission.start, mission.goal)
        assert least <= math.hypot(x, y) <= most
        assert abs(heading) <= math.radians(turn) and abs(math.atan2(y, x)) <= math.radians(turn)
        rooms = {mission.layout.room_at(*pose[:2]) for pose in (mission.start, mission.goal)}
        assert len(rooms) == 1


@pytest.mark.parametrize("level", ["L2-tour", "L2-survey"])
def test_goals_after_a_tour_are_those_without_one(level: str) -> None:
    for seed in range(3):
        alone, toured = (mission_of(LEVELS[name], seed) for name in ("L2", level))
        np.testing.assert_array_equal(alone.start, toured.start)
        np.testing.assert_array_equal(alone.goal, toured.goal)
        assert alone.recording is None and not alone.is_tour
        assert toured.recording is not None and toured.is_tour


def test_survey_looks_around_near_every_goal() -> None:
    for seed in range(3):
        toured, surveyed = (mission_of(LEVELS[name], seed) for name in ("L3", "L3-survey"))
        np.testing.assert_array_equal(toured.goal, surveyed.goal)
        assert surveyed.recording is not None
        steps = np.diff(surveyed.recording.poses, axis=0)
        is_turning = (np.hypot(*steps[:, :2].T) < 1e-6) & (steps[:, 2] > 0)
        places = surveyed.recording.poses[1:][is_turning, :2]
        # Within the spacing of the survey, and what the driver stays away from its viewpoints.
        assert np.hypot(*(places - surveyed.goal[:2]).T).min() < 1.2 + 0.4


@pytest.mark.parametrize(("name", "least", "most", "doors"), [("L2", 1.5, 6.0, 1), ("L3", 6.0, 15.0, 2)])
def test_far_goals_have_the_path_and_the_doors_of_their_level(
    name: str, least: float, most: float, doors: int
) -> None:
    for mission in sampled(name, 4):
        path = shortest(mission)
        assert least <= path_length(path) <= most
        crossed = np.count_nonzero(np.diff([mission.layout.room_at(*point) for point in path]))
        assert crossed == doors or (name == "L3" and crossed >= doors)


def test_tour_shows_every_room_and_turns_around_in_each() -> None:
    for mission in sampled("L3", 3):
        assert mission.recording is not None
        poses = mission.recording.poses
        assert {mission.layout.room_at(*pose[:2]) for pose in poses[::10]} == {
            *range(len(mission.layout.rooms))
        }
        assert np.abs(np.diff(poses[:, 2])).sum() > 2 * math.pi * len(mission.layout.rooms)


@pytest.mark.parametrize("name", ["TR", "TR-back"])
def test_route_has_10_to_20_m_and_begins_and_ends_near_the_mission(name: str) -> None:
    for mission in sampled(name):
        assert mission.recording is not None and mission.is_return == (name == "TR-back")
        assert 10 <= mission.recording.length_m <= 20.5
        ends = mission.recording.poses[0], mission.recording.poses[-1]
        start, goal = ends[::-1] if mission.is_return else ends
        np.testing.assert_array_equal(mission.goal, goal)
        assert 0 < goal_error(start, mission.start)[0] < 0.6


def test_recording_follows_its_odometry_up_to_the_declared_errors() -> None:
    for mission in sampled("TR", 4):
        assert mission.recording is not None
        recorded = mission.recording
        np.testing.assert_array_equal(recorded.odometry[0], 0)
        end = compose(recorded.poses[0], recorded.odometry[-1])
        assert 0 < np.hypot(*(end - recorded.poses[-1])[:2]) < 0.2 * recorded.length_m


def test_demonstration_has_images_at_the_requested_period() -> None:
    level, mission = LEVELS["TR"], mission_of(LEVELS["TR"], 0)
    assert mission.recording is not None
    shown = Assignment(level, mission, mission.open_scene(np.random.default_rng(0))).demonstration(0.5)
    assert shown.images.shape == (len(shown.times_s), 72, 96, 3) and shown.odometry.shape == (
        len(shown.times_s),
        3,
    )
    np.testing.assert_allclose(np.diff(shown.times_s)[:-1], 0.5)
    assert shown.times_s[-1] == mission.recording.duration_s
    halfway = len(shown.times_s) // 2
    np.testing.assert_allclose(shown.odometry[halfway], mission.recording.odometry[20 * halfway])


def test_level_without_a_recording_has_no_demonstration() -> None:
    mission = mission_of(LEVELS["L0"], 0)
    assignment = Assignment(LEVELS["L0"], mission, mission.open_scene(np.random.default_rng(0)))
    assert not assignment.has_recording
    with pytest.raises(ValueError):
        assignment.demonstration()


@pytest.mark.parametrize("name", ["L0", "L1", "L2"])
def test_shortest_path_floor_reaches_95_percent(name: str) -> None:
    episodes = driven(name, SHORTEST_PATH)
    assert sum(each.reached and each.stopped for each in episodes) >= 0.95 * EPISODES


def test_straight_floor_fails_in_the_next_room_more_than_in_the_same() -> None:
    straight = "straight by true pose"
    assert reached("L2", straight) < reached("L1", straight) <= EPISODES


def test_blind_floor_touches_walls_and_contacts_are_no_failure() -> None:
    episodes = driven("L2", "straight by true pose")
    assert sum(each.contacts for each in episodes) > 0
    assert any(each.reached for each in episodes if each.contacts)


def test_odometry_floor_follows_the_route_without_true_poses() -> None:
    episodes = driven("TR", "odometry only", 6)
    assert all(each.path_m > 7 and each.stopped for each in episodes)
    assert np.median([each.distance_m for each in episodes]) < 2.0


def test_driver_sees_images_and_odometry_and_ends_when_it_stops() -> None:
    seen: list[Observation] = []

    def begin(assignment: Assignment, _rng: np.random.Generator) -> object:
        assert assignment.goal_image().shape == (72, 96, 3)

        def decide(observation: Observation) -> Command | None:
            seen.append(observation)
            assert observation.image is observation.image
            return None if len(seen) == 4 else np.array([0.4, 0.3])

        return decide

    level, mission = LEVELS["L1"], mission_of(LEVELS["L1"], 2)
    result = drive(level, mission, Driver(begin), seed=2)  # type: ignore[arg-type]
    assert result.stopped and result.time_s == pytest.approx(0.3)
    assert [each.time_s for each in seen] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    np.testing.assert_array_equal(seen[0].odometry, 0)
    assert seen[-1].odometry[0] > 0 and wrap(seen[-1].odometry[2]) > 0
    assert not np.array_equal(seen[0].image, seen[-1].image)


def test_episode_ends_when_the_time_is_out_and_the_last_pose_counts() -> None:
    level, mission = LEVELS["L0"], mission_of(LEVELS["L0"], 1)
    idle = Driver(lambda _assignment, _rng: lambda _observation: np.zeros(2))
    result = drive(level, mission, idle, seed=1)
    assert (result.stopped, result.reached) == (False, False)
    assert result.time_s == pytest.approx(mission.time_limit_s)
    assert result.distance_m == pytest.approx(goal_error(mission.goal, mission.start)[0])


def test_episode_follows_from_its_seed() -> None:
    first, same = (driven("L1", "random, stops by true pose", 2) for _ in range(2))
    assert first == same and first[0] != first[1]
