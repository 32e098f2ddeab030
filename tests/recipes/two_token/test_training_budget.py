"""Training from scratch with the fixed layout reaches doors within ten minutes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jepa_recipes.training_worlds.two_rooms import TwoRoomsTrainingWorld
from jepa_recipes.two_token.bundle import write_two_token_bundle
from jepa_recipes.two_token.training import train
from jepa_runtime.bundle import Bundle
from jepa_sim.closed_loop.run import Plan, closed_loop
from jepa_sim.worlds import TwoRooms

BUDGET_S = 600


@pytest.mark.training
@pytest.mark.timeout(3 * BUDGET_S)
def test_fixed_layout_trains_within_ten_minutes_to_95_percent(tmp_path: Path) -> None:
    began = time.monotonic()
    model = train(tmp_path / "checkpoints", seed=0, training_world=TwoRoomsTrainingWorld("fixed"))
    spent_s = time.monotonic() - began
    bundle = tmp_path / "bundle"
    write_two_token_bundle(model, bundle, model_id="two_rooms_fixed", version="1.0.0", command="a test")
    plan = Plan(precisions=("fp32",), seeds=(0,), baselines=False)
    driven = closed_loop(Bundle.open(bundle), TwoRooms(layout="fixed", seed=0), plan)
    assert driven.goals["fp32"].rate >= 0.95
    # Two cores: one trains, one renders.
    assert spent_s <= BUDGET_S, f"reached the goal, but training took {spent_s:.0f} s"
