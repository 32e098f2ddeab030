"""CEM to latent sub-goals: around a wall that the energy to the goal does not see."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.energies import mean_squared
from jepa_runtime.planning.hierarchical_cem import HierarchicalCEM, HierarchicalCEMConfig
from jepa_runtime.planning.planner import Planner
from jepa_runtime.planning.registry import create_search
from jepa_runtime.planning.search import LatentFutures
from jepa_runtime.planning.search_method import SearchContext
from tests.errors import code

LIMITS = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
HORIZON = 4
GOAL = np.float32([[2.0, 0.0]])


class Wall:
    """A point whose position is its latent; a wall from (1, -1.5) upwards stops it."""

    def predict(self, actions: np.ndarray, latent: np.ndarray) -> np.ndarray:
        position, path = np.repeat(latent, len(actions), axis=0), []
        for action in actions.transpose(1, 0, 2):
            after = position + action
            crosses = (position[:, 0] < 1) != (after[:, 0] < 1)
            part = (1 - position[:, 0]) / np.where(crosses, action[:, 0], 1)
            stopped = crosses & (position[:, 1] + part * action[:, 1] > -1.5)
            position = np.where(stopped[:, None], position, after)
            path.append(position)
        return np.stack(path, axis=1)[:, :, None].astype(np.float32)

    def energy(self, latents: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return mean_squared(latents, goal)


def drive(search: CEM, steps: int = 16) -> np.ndarray:
    """Return where the robot is after planning at each step."""
    wall, position = Wall(), np.zeros((1, 2), np.float32)

    def rollout(actions: np.ndarray) -> np.ndarray:
        latents = wall.predict(actions, position)
        futures = LatentFutures(latents=latents, current=position, goal=GOAL)
        return search.energies(wall.energy(latents, GOAL), futures)

    for _ in range(steps):
        plan = Planner(search, iterations=4).plan(rollout)
        position = wall.predict(plan.mean[None, :1], position)[0, 0]
        search.shift()
    return position


def hierarchical() -> HierarchicalCEM:
    return HierarchicalCEM(HierarchicalCEMConfig(horizon=HORIZON, macro_steps=4), LIMITS, Wall(), seed=0)


def test_sub_goals_lead_around_a_wall_at_which_cem_stops() -> None:
    flat = drive(CEM(CEMConfig(horizon=HORIZON), LIMITS, seed=0))
    assert flat[0, 0] < 1
    assert drive(hierarchical())[0, 0] > 1


def test_goal_within_reach_is_the_sub_goal() -> None:
    search, at = hierarchical(), np.float32([[1.5, 0.0]])
    latents = Wall().predict(search.ask(), at)
    search.energies(np.zeros((64, HORIZON)), LatentFutures(latents=latents, current=at, goal=GOAL))
    np.testing.assert_array_equal(search.subgoal, GOAL)


def test_sub_goal_is_chosen_again_after_each_step() -> None:
    search, at = hierarchical(), np.zeros((1, 2), np.float32)
    latents = Wall().predict(search.ask(), at)
    futures = LatentFutures(latents=latents, current=at, goal=GOAL)
    search.energies(np.zeros((64, HORIZON)), futures)
    first = search.subgoal
    search.energies(np.zeros((64, HORIZON)), futures)
    assert search.subgoal is first
    search.shift()
    assert search.subgoal is None


def test_search_without_latents_or_model_raises() -> None:
    with pytest.raises(JepaRuntimeError, check=code("planner.no_latents")):
        hierarchical().energies(np.zeros((64, HORIZON), np.float32), None)
    with pytest.raises(JepaRuntimeError, check=code("planner.no_latents")):
        create_search(HierarchicalCEMConfig(), SearchContext(limits=LIMITS, seed=0))


@pytest.mark.parametrize("wrong", [{"macro_steps": 0}, {"branches": 0}, {"least_gain": 1.0}])
def test_invalid_settings_are_rejected(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HierarchicalCEMConfig(**wrong)
