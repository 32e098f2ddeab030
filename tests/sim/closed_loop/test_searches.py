"""Registered searches drive the simulated robot, with the policy or the latents that they require."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.control import ControllerConfig, preset
from jepa_runtime.errors import WorldError
from jepa_sim.closed_loop.episodes import model_driver, run_episode
from jepa_sim.worlds import TwoRooms
from tests.errors import code


@pytest.fixture(scope="module")
def model(two_rooms_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(two_rooms_bundle) as opened:
        yield opened


@pytest.mark.parametrize("energy", [None, "mean_squared"])
def test_hierarchical_search_drives_to_sub_goals(model: WorldModel, energy: str | None) -> None:
    config = ControllerConfig(
        search=preset("hierarchical_cem").search, energy=energy, images_per_step=1, extra_iterations=2
    )
    world = TwoRooms(seed=0)
    world.reset(5)
    policy = model_driver(model, config, world.task).begin(world, 5)
    chosen = []
    for _ in range(4):
        command = policy(world.render())
        assert command is not None
        world.step(command, 0.2)
        chosen.append(policy._robot.planner._search.subgoal is not None)
    assert any(chosen) and np.abs(command).max() > 0


def test_search_from_a_policy_asks_it_with_latents_of_image_and_goal(model: WorldModel) -> None:
    asked = []

    def propose(latent: np.ndarray, goal: np.ndarray) -> np.ndarray:
        asked.append((latent.shape, goal.shape))
        return np.zeros((2, 3, 2), np.float32)

    world, latent = TwoRooms(seed=0), model.manifest.io.latent
    config = ControllerConfig(search=preset("policy_cem").search, images_per_step=1, extra_iterations=2)
    driver = model_driver(model, config, world.task, propose=propose)
    episode = run_episode(world, driver, seed=5, step_s=0.2)
    assert episode.steps > 1
    assert set(asked) == {((latent.tokens, latent.dim), (latent.tokens, latent.dim))}


def test_search_from_a_policy_without_one_raises(model: WorldModel) -> None:
    world = TwoRooms(seed=0)
    world.reset(5)
    driver = model_driver(model, preset("policy_cem"), world.task)
    with pytest.raises(WorldError, check=code("sim.no_policy")):
        driver.begin(world, 5)
