"""benchmarks/stable_worldmodel.py: pairs, actions and exit status, without the package."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_runtime.errors import JepaRuntimeError
from tests.scripts import load

benchmark = load("stable_worldmodel")


def recordings(*positions: list[float]) -> Any:
    """Return recordings in which the agent is at these columns, one list for each episode."""
    states = np.array([[x, 50.0] for episode in positions for x in episode])
    lengths = [len(episode) for episode in positions]
    return SimpleNamespace(lengths=lengths, get_col_data=lambda name: {"state": states}[name])


def test_pairs_end_within_their_recording() -> None:
    dataset = recordings(list(range(5)), list(range(3)))
    pairs = benchmark.Pairs(2, 4, other_room=False, has_goal=False)
    episodes, steps = benchmark.choose(dataset, pairs, 4, 0)
    assert list(zip(episodes.tolist(), steps.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_pairs_of_the_other_room_cross_the_wall() -> None:
    dataset = recordings([100.0, 110.0, 120.0, 130.0], [10.0, 20.0, 30.0])
    pairs = benchmark.Pairs(1, 2, other_room=True, has_goal=True)
    episodes, steps = benchmark.choose(dataset, pairs, 1, 0)
    assert (episodes.tolist(), steps.tolist()) == ([0], [1])
    with pytest.raises(JepaRuntimeError, match="1 pairs instead of 2: record more"):
        benchmark.choose(dataset, pairs, 2, 0)


def of(units: str, max_norm: float | None) -> Any:
    """Return the actions of a bundle with these units and this largest norm."""
    action = SimpleNamespace(units=[units, units], max_norm=max_norm)
    bundle = SimpleNamespace(manifest=SimpleNamespace(io=SimpleNamespace(action=action)))
    return benchmark.Actions.of(bundle)


def test_velocity_moves_the_robot_as_far_in_the_image_as_the_steps_of_its_block() -> None:
    right = np.tile([0.5, 0.0], benchmark.BLOCK).astype(np.float32)[None, None]
    (velocity,) = of("m/s", 1.25).of_blocks(right)[0]
    moved_px = velocity * 0.2 / 4.0 * benchmark.SIDE_PX
    np.testing.assert_allclose(moved_px, [benchmark.BLOCK * 0.5 * benchmark.STEP_PX, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("units", "max_norm"), [("m/s", 1.25), ("1", 1.0)])
def test_candidates_and_executed_actions_stay_within_the_largest_norm(units: str, max_norm: float) -> None:
    actions = of(units, max_norm)
    candidates = np.random.default_rng(0).normal(0, 3, (50, 4, 2 * benchmark.BLOCK)).astype(np.float32)
    assert np.linalg.norm(actions.of_blocks(candidates), axis=-1).max() <= max_norm + 1e-5
    executed = actions.inverse_transform(candidates.reshape(50, -1, 2))
    blocks = executed.reshape(50, 4, benchmark.BLOCK, 2).mean(axis=2)
    np.testing.assert_allclose(actions.of_blocks(candidates), blocks * actions.unit, rtol=1e-5)


def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("jepa_recipes.training_worlds.stable_worldmodel.importlib.import_module", missing)
    assert benchmark.main([]) == 2
    error = capsys.readouterr().err
    assert "stable_worldmodel" in error and "pip install -r benchmarks/stable_worldmodel.txt" in error


@pytest.mark.parametrize(("rate", "status"), [(0.95, 0), (0.9, 1)])
def test_exit_status_depends_on_the_sets_with_a_goal(
    rate: float, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    rates = {"standard": 0.0, "other room": 1.0, "offset 100": rate}
    rows = [{"pairs": name, "driver": "a 1", "rate": each} for name, each in rates.items()]
    monkeypatch.setattr(benchmark, "measure", lambda _: {"models": {"a 1": {}}, "rows": rows})
    assert benchmark.main(["--json", str(tmp_path / "report.json")]) == status
    assert (tmp_path / "report.json").exists()
