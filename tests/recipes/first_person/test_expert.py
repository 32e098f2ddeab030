"""The expert of behavior cloning: it solves the levels, and its advice depends on the layout."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_recipes.first_person.expert import Expert
from jepa_runtime.util import Pose, compose
from jepa_sim.closed_loop.first_person.protocol import TruePoseDriver, drive, mission_of
from jepa_sim.worlds.first_person.layouts import Layout, pack, sample_layout
from jepa_sim.worlds.first_person.levels import LEVELS, Mission
from jepa_sim.worlds.first_person.paths import CELL_M, Command, CostMap, DistanceField
from jepa_sim.worlds.first_person.recordings import free_pose
from jepa_sim.worlds.first_person.world import MODEL_STEP_S

LAYOUT = sample_layout(np.random.default_rng(0), held_out=False, shape=(2, 1))


def expert_in(layout: Layout = LAYOUT) -> Expert:
    return Expert(pack([layout]), 0)


def open_pose() -> Pose:
    """Return a pose without anything within a meter."""
    return free_pose(pack([LAYOUT]), LAYOUT, np.random.default_rng(0), 1.0)


def begin(mission: Mission, _rng: np.random.Generator) -> Callable[[Pose], Command | None]:
    expert = Expert(mission.packed, 0)

    def decide(pose: Pose) -> Command | None:
        command, distance_m = expert.advise(pose, mission.goal)
        return None if distance_m < 0.12 else command

    return decide


@pytest.mark.parametrize("name", ["L0", "L1", "L2"])
def test_expert_with_one_command_per_model_step_reaches_the_goals(name: str) -> None:
    level, driver = LEVELS[name], TruePoseDriver(begin)
    for seed in range(5):
        found = drive(level, mission_of(level, seed), driver, seed=seed, period_s=MODEL_STEP_S)
        assert found.reached and found.stopped and not found.contacts


def test_expert_backs_up_to_a_goal_behind() -> None:
    pose = open_pose()
    (speed, _), distance_m = expert_in().advise(pose, compose(pose, np.array([-0.5, 0.0, 0.0])))
    assert speed < 0 and distance_m == pytest.approx(0.5)


def test_expert_arrives_with_the_heading_of_the_goal() -> None:
    pose = open_pose()
    for heading in (0.6, -0.6):
        (speed, turn), distance_m = expert_in().advise(pose, compose(pose, np.array([0.8, 0.0, heading])))
        # It first drives to the side on which the goal looks away.
        assert speed > 0 and turn * heading < 0 and distance_m == pytest.approx(1.1)


def test_expert_drives_around_a_wall() -> None:
    (door,) = LAYOUT.doors
    assert door.is_crossed_along_x
    x, y = door.center
    # On both sides of the wall next to the door, facing it.
    side = 1.2 if y < LAYOUT.size[1] / 2 else -1.2
    start, goal = np.array([x - 0.5, y + side, 0.0]), np.array([x + 0.5, y + side, 0.0])
    (_, turn), distance_m = expert_in().advise(start, goal)
    assert turn * side < 0 and distance_m > 1.5


def test_expert_turns_left_to_a_far_goal_behind() -> None:
    pose = open_pose()
    for bearing in (170, -170):
        angle = math.radians(bearing)
        goal = compose(pose, np.array([1.1 * math.cos(angle), 1.1 * math.sin(angle), 0.0]))
        (speed, turn), _ = expert_in().advise(pose, goal)
        assert speed == pytest.approx(0, abs=1e-6) and turn > 1


def test_expert_steers_to_a_goal_to_which_no_path_is_known() -> None:
    """A goal in the middle of a wall, where a robot never is."""
    pose = open_pose()
    goal = np.array([pose[0] + 1.5, -0.05, 0.0])
    assert math.isinf(DistanceField(pack([LAYOUT]), 0, goal).length(pose))
    (speed, turn), distance_m = expert_in().advise(pose, goal)
    assert np.isfinite([speed, turn, distance_m]).all() and distance_m < 20


def test_expert_next_to_an_obstacle_knows_its_path() -> None:
    """The robot fits where it is, but not into the center of the cell of the map in which it is."""
    packed, rng = pack([LAYOUT]), np.random.default_rng(0)
    costs, goal = CostMap(packed, 0), open_pose()
    field = DistanceField(packed, 0, goal, costs=costs)
    squeezed = []
    while len(squeezed) < 20:
        pose = free_pose(packed, LAYOUT, rng, 0.0)
        if not costs.free[int(pose[0] / CELL_M), int(pose[1] / CELL_M)]:
            squeezed.append(pose)
    lengths = [field.length(pose) for pose in squeezed]
    assert np.isfinite(lengths).all() and max(lengths) < 40
    assert field.length(goal) == 0
