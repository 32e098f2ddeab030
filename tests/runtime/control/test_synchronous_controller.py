"""Receding-horizon control on a toy bundle: legal actions, towards the goal, repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.control.synchronous_controller import (
    ControlConfig,
    SynchronousController,
    rollout_of,
    search_of,
)
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEMConfig
from jepa_runtime.planning.energies import EnergyName, plan_costs
from jepa_runtime.planning.mppi import MPPIConfig
from jepa_runtime.planning.planner import Planner

pytest.importorskip("onnx", reason="onnx is not installed (extra dev)")
from tests.bundles import ACTIONS, HORIZON, NUM_SAMPLES, SIZE, make_bundle

CONFIG = ControlConfig(iterations=4, search=CEMConfig(num_samples=NUM_SAMPLES, horizon=HORIZON, topk=2))


@pytest.fixture(scope="module")
def model(toy_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(toy_bundle, precision="fp32") as opened:
        yield opened


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def test_a_frame_that_shows_the_goal_is_reached_and_stops_the_robot(model: WorldModel) -> None:
    decision = SynchronousController(model, image(0), CONFIG, seed=0).decide(image(0))
    assert decision.reached
    assert decision.energy <= model.manifest.goal_threshold
    np.testing.assert_array_equal(decision.action, np.zeros(ACTIONS))


def test_elsewhere_it_gives_one_legal_action_and_the_energy_of_where_it_is(model: WorldModel) -> None:
    controller = SynchronousController(model, image(0), CONFIG, seed=0)
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
        controller = SynchronousController(model, image(0), CONFIG, seed=seed)
        return [controller.decide(image(frame)).action for frame in (1, 2, 3)]

    np.testing.assert_array_equal(decisions(1), decisions(1))
    assert not np.array_equal(decisions(1), decisions(2))


def test_more_iterations_find_cheaper_plans(model: WorldModel) -> None:
    goal, start = model.encode(image(0)), model.encode(image(1))

    def cost(iterations: int, seed: int) -> float:
        config = ControlConfig(iterations=iterations, search=CONFIG.search)
        controller = SynchronousController(model, image(0), config, seed=seed)
        action = controller.decide(image(1)).action
        held = np.tile(action, (1, HORIZON, 1))
        return float(plan_costs(model.energy(model.predict(held, latents=start).latents, goal))[0])

    few, many = (np.mean([cost(count, seed) for seed in range(12)]) for count in (1, 12))
    assert many < few


def test_a_robot_that_gets_no_nearer_drives_another_way_and_plans_anew(model: WorldModel) -> None:
    frame, goal = (np.full((32, 32, 3), value, np.uint8) for value in (10, 250))
    config = ControlConfig(
        iterations=1, patience=3, escape_steps=2, search=CEMConfig(num_samples=8, horizon=4)
    )
    controller = SynchronousController(model, goal, config, seed=0)

    actions = [controller.decide(frame).action for _ in range(6)]

    # The first sets the mark; after three without progress come two equal actions as large as allowed.
    assert np.array_equal(actions[3], actions[4])
    assert not np.array_equal(actions[4], actions[5])


def test_a_robot_without_patience_to_lose_never_escapes(model: WorldModel) -> None:
    frame, goal = (np.full((32, 32, 3), value, np.uint8) for value in (10, 250))
    controller = SynchronousController(model, goal, replace(CONFIG, patience=None), seed=0)
    actions = [controller.decide(frame).action for _ in range(20)]
    assert not any(np.array_equal(one, other) for one, other in pairwise(actions))


class Calls:
    """Counts the predictions of a model."""

    def __init__(self, model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        predict = model.predict

        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            return predict(*arguments, **named)

        monkeypatch.setattr(model, "predict", counted)


def test_so_many_actions_of_a_plan_are_executed_as_asked_for(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(model, monkeypatch)
    controller = SynchronousController(model, image(0), replace(CONFIG, replan_every=3), seed=0)
    counts = []
    for _ in range(7):
        controller.decide(image(1))
        counts.append(calls.count)
    assert counts == [4, 4, 4, 8, 8, 8, 12]


def test_an_executed_plan_is_the_one_that_was_made(model: WorldModel) -> None:
    once = SynchronousController(model, image(0), CONFIG, seed=0)
    thrice = SynchronousController(model, image(0), replace(CONFIG, replan_every=3), seed=0)
    first = once.decide(image(1)).action
    # The search has shifted by one; what it holds next was the second of the plan.
    second = once._search.mean[0]
    np.testing.assert_array_equal(thrice.decide(image(1)).action, first)
    np.testing.assert_array_equal(thrice.decide(image(1)).action, second)


def test_a_model_that_looks_back_is_told_what_was_seen_and_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "bundle", history_size=3)
    with WorldModel.open(bundle, precision="fp32") as model:
        told: list[tuple[np.ndarray, np.ndarray | None]] = []
        predict = model.predict

        def noted(*arguments: Any, **named: Any) -> Any:
            told.append((named["latents"], named.get("history_actions")))
            return predict(*arguments, **named)

        monkeypatch.setattr(model, "predict", noted)
        controller = SynchronousController(
            model, image(0), replace(CONFIG, iterations=1, patience=None), seed=0
        )
        done = [controller.decide(image(frame)).action for frame in (1, 2, 3, 4)]
        seen = [model.encode(image(frame)) for frame in (1, 2, 3, 4)]

    rest = np.zeros(ACTIONS)
    expected = [
        ([0, 0, 0], [rest, rest]),
        ([0, 0, 1], [rest, done[0]]),
        ([0, 1, 2], done[:2]),
        ([1, 2, 3], done[1:3]),
    ]
    for (latents, actions), (frames, before) in zip(told, expected, strict=True):
        np.testing.assert_array_equal(latents, [seen[frame] for frame in frames])
        np.testing.assert_array_equal(actions, before)


def test_goals_are_taken_one_after_another(model: WorldModel) -> None:
    controller = SynchronousController(model, [image(0), image(1), image(2)], CONFIG, seed=0)
    seen = [controller.decide(image(frame)) for frame in (3, 0, 3, 0, 1, 2)]
    assert [decision.goal for decision in seen] == [0, 1, 1, 1, 2, 2]
    assert [decision.reached for decision in seen] == [False] * 5 + [True]
    to_next = float(model.energy(model.encode(image(0)), model.encode(image(1))))
    assert seen[1].energy == pytest.approx(to_next, rel=1e-5)


def test_goals_reached_at_once_are_passed_at_once(model: WorldModel) -> None:
    decision = SynchronousController(model, [image(0), image(0), image(0)], CONFIG, seed=0).decide(image(0))
    assert decision.reached and decision.goal == 2


def test_a_looser_threshold_holds_for_all_goals_but_the_last(model: WorldModel) -> None:
    loose = replace(CONFIG, subgoal_threshold=1e9)
    decision = SynchronousController(model, [image(0), image(1)], loose, seed=0).decide(image(2))
    assert decision.goal == 1 and not decision.reached


def test_a_new_goal_gets_a_plan_of_its_own(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(model, monkeypatch)
    controller = SynchronousController(model, [image(0), image(1)], replace(CONFIG, replan_every=4), seed=0)
    controller.decide(image(2))
    controller.decide(image(0))
    assert calls.count == 2 * CONFIG.iterations


def flat(value: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), value, np.uint8)


def test_a_goal_further_away_than_the_last_is_no_reason_to_be_stuck(model: WorldModel) -> None:
    config = replace(CONFIG, patience=3, escape_steps=2)
    controller = SynchronousController(model, [flat(10), flat(250)], config, seed=0)
    seen = [controller.decide(flat(value)) for value in (60, 60, 10, 10, 10)]
    assert [decision.goal for decision in seen] == [0, 0, 1, 1, 1]
    assert not any(np.array_equal(one.action, other.action) for one, other in pairwise(seen))


def test_who_escapes_is_not_stuck_meanwhile(model: WorldModel) -> None:
    config = replace(CONFIG, patience=2, escape_steps=6)
    controller = SynchronousController(model, flat(250), config, seed=0)
    actions = [controller.decide(flat(10)).action for _ in range(12)]
    # The third decision escapes, for six steps, and the third after these again.
    again = [np.array_equal(one, other) for one, other in pairwise(actions)]
    assert again == [False] * 2 + [True] * 5 + [False] * 3 + [True]


def test_energies_ahead_are_discounted_as_asked_for(model: WorldModel) -> None:
    def action(**named: Any) -> np.ndarray:
        return (
            SynchronousController(model, image(0), replace(CONFIG, **named), seed=0).decide(image(1)).action
        )

    summed = action(reduction="sum")
    np.testing.assert_allclose(action(reduction="discounted", discount=1.0), summed, atol=1e-6)
    assert not np.allclose(action(reduction="discounted", discount=0.01), summed, atol=1e-3)


def test_without_a_goal_there_is_nothing_to_drive_to(model: WorldModel) -> None:
    with pytest.raises(ValueError, match="must be a goal"):
        SynchronousController(model, [], CONFIG, seed=0)


def test_a_latent_is_sought_as_the_image_of_which_it_is(model: WorldModel) -> None:
    latent = model.encode(image(0)).astype(np.float64)
    by_image, by_latent = (
        SynchronousController(model, goal, CONFIG, seed=0).decide(image(1)) for goal in (image(0), latent)
    )
    assert by_latent.energy == by_image.energy
    np.testing.assert_array_equal(by_latent.action, by_image.action)
    with pytest.raises(ValueError, match="a goal must be an image, or a latent"):
        SynchronousController(model, latent[:, :-1], CONFIG, seed=0)


@pytest.mark.parametrize("further", [{"horizon": HORIZON + 1}, {"num_samples": NUM_SAMPLES + 1}])
def test_a_search_that_the_model_cannot_follow_is_refused_at_once(
    model: WorldModel, further: dict[str, int]
) -> None:
    config = replace(CONFIG, search=replace(CONFIG.search, **further))
    with pytest.raises(ValueError, match=f"at most {NUM_SAMPLES} candidates of {HORIZON} steps, the search"):
        SynchronousController(model, image(0), config, seed=0)


def test_a_plan_takes_no_longer_than_its_budget(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(model, monkeypatch)
    config = replace(CONFIG, iterations=50, budget_s=0.025)
    SynchronousController(model, image(0), config, seed=0, clock=lambda: 0.01 * calls.count).decide(image(1))
    assert calls.count == 2


@pytest.mark.parametrize("energy", ["l1", "l2", "mean_squared", "cosine"])
@pytest.mark.parametrize("kind", [CEMConfig, MPPIConfig])
def test_every_energy_and_search_makes_plans_that_are_cheaper_by_it(
    model: WorldModel, kind: type[CEMConfig | MPPIConfig], energy: EnergyName
) -> None:
    start, goal = model.encode(image(1)), model.encode(image(0))
    rollout = rollout_of(model, start, goal, energy)

    def cost(iterations: int, seed: int) -> float:
        search = search_of(
            kind(num_samples=NUM_SAMPLES, horizon=HORIZON, topk=2), ActionLimits.of(model.manifest), seed=seed
        )
        return Planner(search, iterations=iterations).plan(rollout).cost

    few, many = (np.mean([cost(count, seed) for seed in range(6)]) for count in (1, 15))
    assert many < few


@pytest.mark.parametrize("replan_every", [1, 4])
def test_other_limits_than_the_manifests_are_obeyed_by_plans_and_escapes(
    model: WorldModel, replan_every: int
) -> None:
    manifests = ActionLimits.of(model.manifest)
    slow = replace(manifests, max_change=np.full(ACTIONS, 0.01, np.float32))
    config = replace(CONFIG, patience=2, replan_every=replan_every)
    controller = SynchronousController(model, image(0), config, seed=0, limits=slow)
    actions = [controller.decide(image(1)).action for _ in range(12)]
    assert np.abs(np.diff(actions, axis=0)).max() <= 0.01 + 1e-6


def test_a_robot_that_leaves_the_goal_again_sets_out_from_where_it_stands(model: WorldModel) -> None:
    slow = replace(ActionLimits.of(model.manifest), max_change=np.full(ACTIONS, 0.05, np.float32))
    controller = SynchronousController(model, image(0), replace(CONFIG, replan_every=4), seed=0, limits=slow)
    seen = [controller.decide(image(frame)) for frame in (1, 1, 1, 1, 1, 0, 1)]
    assert [decision.reached for decision in seen] == [False] * 5 + [True, False]
    assert np.abs(seen[4].action).max() > 0.2
    assert np.abs(seen[6].action).max() <= 0.05 + 1e-6


def test_a_stuck_robot_cannot_escape_for_no_step() -> None:
    assert replace(CONFIG, escape_steps=1).escape_steps == 1
    with pytest.raises(ValueError, match="escape_steps must be at least 1"):
        replace(CONFIG, escape_steps=0)


def test_an_energy_that_there_is_not_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"energy must be l1, l2, .* or None, got 'L1'"):
        replace(CONFIG, energy="L1")


@pytest.mark.parametrize("steps", [0, HORIZON + 1])
def test_more_actions_than_a_plan_has_cannot_be_executed(steps: int) -> None:
    with pytest.raises(ValueError, match="replan_every must be between 1 and horizon"):
        replace(CONFIG, replan_every=steps)
