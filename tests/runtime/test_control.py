"""Receding-horizon control on a toy bundle: legal actions, towards the goal, repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.planning.cem import CEMConfig, plan_costs
from jepa_runtime.planning.control import ControlConfig, Controller

pytest.importorskip("onnx", reason="onnx is not installed (extra dev)")
from tests.bundles import ACTIONS, HORIZON, NUM_SAMPLES, SIZE

CONFIG = ControlConfig(iterations=4, cem=CEMConfig(num_samples=NUM_SAMPLES, horizon=HORIZON, topk=2))


@pytest.fixture(scope="module")
def model(toy_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(toy_bundle, precision="fp32") as opened:
        yield opened


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def test_costs_are_the_energies_summed_along_the_way() -> None:
    energies = np.arange(12, dtype=np.float32).reshape(3, 4)
    costs = plan_costs(energies)
    np.testing.assert_array_equal(costs, [6, 22, 38])
    assert costs.dtype == np.float32


def test_a_frame_that_shows_the_goal_is_reached_and_stops_the_robot(model: WorldModel) -> None:
    decision = Controller(model, image(0), CONFIG, seed=0).decide(image(0))
    assert decision.reached
    assert decision.energy <= model.manifest.goal_threshold
    np.testing.assert_array_equal(decision.action, np.zeros(ACTIONS))


def test_elsewhere_it_gives_one_legal_action_and_the_energy_of_where_it_is(model: WorldModel) -> None:
    controller = Controller(model, image(0), CONFIG, seed=0)
    energy = float(model.energy(model.encode(image(1)), model.encode(image(0))))
    for _ in range(5):
        decision = controller.decide(image(1))
        assert not decision.reached
        assert decision.energy == pytest.approx(energy, rel=1e-5)
        assert decision.action.shape == (ACTIONS,)
        limits = model.manifest.io.action
        assert np.linalg.norm(decision.action) <= limits.max_norm * (1 + 1e-5)


def test_equal_seeds_decide_alike(model: WorldModel) -> None:
    def decisions(seed: int) -> list[np.ndarray]:
        controller = Controller(model, image(0), CONFIG, seed=seed)
        return [controller.decide(image(frame)).action for frame in (1, 2, 3)]

    np.testing.assert_array_equal(decisions(1), decisions(1))
    assert not np.array_equal(decisions(1), decisions(2))


def test_more_iterations_find_cheaper_plans(model: WorldModel) -> None:
    goal, start = model.encode(image(0)), model.encode(image(1))

    def cost(iterations: int, seed: int) -> float:
        config = ControlConfig(iterations=iterations, cem=CONFIG.cem)
        controller = Controller(model, image(0), config, seed=seed)
        action = controller.decide(image(1)).action
        held = np.tile(action, (1, HORIZON, 1))
        return float(plan_costs(model.energy(model.predict(held, latents=start).latents, goal))[0])

    few, many = (np.mean([cost(count, seed) for seed in range(12)]) for count in (1, 12))
    assert many < few


def test_more_candidates_than_the_model_has_room_for_are_refused(model: WorldModel) -> None:
    config = ControlConfig(cem=CEMConfig(num_samples=NUM_SAMPLES + 1, horizon=HORIZON, topk=2))
    with pytest.raises(ValueError, match="actions must be"):
        Controller(model, image(0), config, seed=0).decide(image(1))


def test_a_robot_that_gets_no_nearer_drives_another_way_and_plans_anew(model: WorldModel) -> None:
    frame, goal = (np.full((32, 32, 3), value, np.uint8) for value in (10, 250))
    config = ControlConfig(iterations=1, patience=3, escape_steps=2, cem=CEMConfig(num_samples=8, horizon=4))
    controller = Controller(model, goal, config, seed=0)

    actions = [controller.decide(frame).action for _ in range(6)]

    # The first sets the mark; after three without progress come two equal actions as large as allowed.
    assert np.array_equal(actions[3], actions[4])
    assert not np.array_equal(actions[4], actions[5])
