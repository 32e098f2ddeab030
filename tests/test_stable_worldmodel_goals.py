"""benchmarks/stable_worldmodel_goals.py: pairs, actions, history and exit status, without the package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_runtime import Bundle
from jepa_runtime.errors import JepaRuntimeError
from tests.scripts import load

torch = pytest.importorskip("torch", reason="torch is not installed (extra export)")

benchmark = load("stable_worldmodel_goals")
environment = load("stable_worldmodel_environments.environment")
planning = load("stable_worldmodel_environments.planning")
two_room = load("stable_worldmodel_environments.two_room")
BLOCK = two_room.BLOCK


def recordings(*positions: list[float]) -> Any:
    """Return recordings in which the agent is at these columns, one list for each episode."""
    states = np.array([[x, 50.0] for episode in positions for x in episode])
    lengths = [len(episode) for episode in positions]
    return SimpleNamespace(lengths=lengths, get_col_data=lambda name: {"state": states}[name])


def test_pairs_end_within_their_recording() -> None:
    dataset = recordings(list(range(5)), list(range(3)))
    pairs = environment.Pairs(2, 4, required=False)
    episodes, steps = benchmark.ENVIRONMENTS["two_room"].choose(dataset, pairs, 4, 0)
    assert list(zip(episodes.tolist(), steps.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_pairs_of_the_other_room_cross_the_wall() -> None:
    dataset = recordings([100.0, 110.0, 120.0, 130.0], [10.0, 20.0, 30.0])
    pairs = environment.Pairs(1, 2, required=True, eligible=two_room.in_different_rooms)
    episodes, steps = two_room.TWO_ROOM.choose(dataset, pairs, 1, 0)
    assert (episodes.tolist(), steps.tolist()) == ([0], [1])
    with pytest.raises(JepaRuntimeError, match="1 pairs instead of 2: record more"):
        two_room.TWO_ROOM.choose(dataset, pairs, 2, 0)


def of(units: str, max_norm: float | None) -> Any:
    """Return the actions of a bundle with these units and this largest norm."""
    names = ["linear.x", "linear.y"] if units == "m/s" else ["action.x", "action.y"]
    action = SimpleNamespace(names=names, units=[units, units], max_norm=max_norm)
    bundle = SimpleNamespace(manifest=SimpleNamespace(io=SimpleNamespace(action=action)))
    return two_room.actions(bundle)


def test_velocity_moves_the_robot_as_far_in_the_image_as_the_steps_of_its_block() -> None:
    right = np.tile([0.5, 0.0], BLOCK).astype(np.float32)[None, None]
    (velocity,) = of("m/s", 1.25).of_blocks(right)[0]
    moved_px = velocity * 0.2 / 4.0 * two_room.SIDE_PX
    np.testing.assert_allclose(moved_px, [BLOCK * 0.5 * two_room.STEP_PX, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("units", "max_norm"), [("m/s", 1.25), ("1", 1.0)])
def test_candidates_and_executed_actions_stay_within_the_largest_norm(units: str, max_norm: float) -> None:
    actions = of(units, max_norm)
    candidates = np.random.default_rng(0).normal(0, 3, (50, 4, 2 * BLOCK)).astype(np.float32)
    assert np.linalg.norm(actions.of_blocks(candidates), axis=-1).max() <= max_norm + 1e-5
    executed = actions.inverse_transform(candidates.reshape(50, -1, 2))
    blocks = executed.reshape(50, 4, BLOCK, 2).mean(axis=2)
    np.testing.assert_allclose(actions.of_blocks(candidates), blocks * actions.unit, rtol=1e-5)


def test_torques_are_limited_one_by_one() -> None:
    actions = planning.BlockActions(2, 1.0, None)
    candidates = np.array([[[3.0, 0.5, 0.0, -0.5]]], np.float32)
    np.testing.assert_allclose(actions.of_blocks(candidates), [[[0.5, 0.0]]])
    np.testing.assert_array_equal(actions.inverse_transform(candidates[0]), [[1.0, 0.5, 0.0, -0.5]])


class Package:
    """Stands in for the package: its policy plans when a block is over, and acts as ``acting`` says."""

    def __init__(self, acting: list[float]) -> None:
        received: list[dict[str, Any]] = []
        self.received = received

        class WorldModelPolicy:
            def __init__(self, solver: Any, plan: Any, process: Any) -> None:
                del solver, plan, process

            def set_env(self, env: Any) -> None:
                self.env = env

            def get_action(self, info: dict[str, Any]) -> Any:
                received.append(info)
                return np.full((2, 1), acting[len(received) - 1], np.float32)

        self.policy = SimpleNamespace(WorldModelPolicy=WorldModelPolicy)
        self.solver = SimpleNamespace(CEMSolver=lambda *_, **__: None)

    def PlanConfig(self, **settings: Any) -> Any:
        return settings


def test_policy_passes_the_latents_and_actions_of_past_blocks() -> None:
    package = Package([0.2, 0.4, float("nan"), 0.8, 0.0])
    model: Any = SimpleNamespace(
        manifest=SimpleNamespace(history_size=3, action_size=1),
        num_samples=4,
        encode=lambda image: np.full((1, 1), image[0, 0, 0], np.float32),
    )
    settings = planning.PlannerSettings(horizon=2, receding=1, iterations=1, topk=1, all_steps=True)
    policy = planning.bundle_policy(package, model, planning.BlockActions(2, 10.0, None), settings)
    policy.set_env(SimpleNamespace(num_envs=2))
    for step in range(5):
        shown = np.full((2, 1, 4, 4, 3), step, np.uint8)
        policy.get_action({"pixels": shown, "goal": np.full_like(shown, 99)})
    seen, executed = (
        [info[name][1].flatten().tolist() for info in package.received[::2]] for name in ("seen", "executed")
    )
    # The first frame also stands for what was before it. A missing action counts as none.
    assert seen == [[0, 0, 0], [0, 0, 2], [0, 2, 4]]
    np.testing.assert_allclose(executed, [[0, 0], [0, 3], [3, 4]], rtol=1e-6)
    assert package.received[0]["goal_latent"].flatten().tolist() == [99, 99]


@pytest.mark.parametrize(("all_steps", "cost"), [(True, 3.0), (False, 2.0)])
def test_cost_is_the_energy_of_all_steps_or_of_the_last(all_steps: bool, cost: float) -> None:
    model: Any = SimpleNamespace(
        predict=lambda actions, **_: SimpleNamespace(energies=np.tile([1.0, 2.0], (len(actions), 1)))
    )
    bundle_cost = planning.BundleCost(model, planning.BlockActions(1, 1.0, None), all_steps=all_steps)
    info = {name: torch.zeros(1, 3, 1, 1) for name in ("seen", "executed", "goal_latent")}
    assert bundle_cost.get_cost(info, torch.zeros(1, 3, 2, 1)).tolist() == [[cost] * 3]


def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("jepa_recipes.stable_worldmodel.recordings.importlib.import_module", missing)
    assert benchmark.main(["--bundle", "models/two_rooms"]) == 2
    error = capsys.readouterr().err
    assert "stable_worldmodel" in error and "pip install -r benchmarks/stable_worldmodel.txt" in error


def test_bundle_of_another_robot_is_refused(two_rooms_bundle: Path) -> None:
    bundle = Bundle.open(two_rooms_bundle)
    assert two_room.actions(bundle).block == BLOCK
    with pytest.raises(JepaRuntimeError, match=r"has the actions linear\.x, linear\.y"):
        benchmark.REACHER.actions(bundle)


@pytest.mark.parametrize(("rate", "status"), [(0.95, 0), (0.9, 1)])
def test_exit_status_depends_on_the_sets_with_a_goal(
    rate: float, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    rates = {"standard": 0.0, "other room": 1.0, "offset 100": rate}
    rows = [{"pairs": name, "driver": "a 1", "rate": each} for name, each in rates.items()]
    monkeypatch.setattr(benchmark, "measure", lambda _: {"models": {"a 1": {}}, "rows": rows})
    assert benchmark.main(["--bundle", "a", "--json", str(tmp_path / "report.json")]) == status
    assert (tmp_path / "report.json").exists()
