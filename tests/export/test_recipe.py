"""The recipe of the fixed layout, as anyone can watch it: from nothing to doors found, within ten minutes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jepa_export.evaluate import closed_loop
from jepa_export.pack import pack
from jepa_export.training.two_rooms import train

BUDGET_S = 600


@pytest.mark.training
@pytest.mark.timeout(3 * BUDGET_S)
def test_the_fixed_layout_trains_within_ten_minutes_to_95_percent(tmp_path: Path) -> None:
    began = time.monotonic()
    model = train(tmp_path / "checkpoints", seed=0, kind="fixed")
    spent_s = time.monotonic() - began
    bundle = tmp_path / "bundle"
    pack(model, bundle, model_id="two_rooms_fixed", version="1.0.0", release_seq=1, command="a test")
    report = closed_loop(
        bundle, layout="fixed", seeds=(0,), episodes=100, precisions=("fp32",), baselines=False
    )
    assert report["scores"]["fp32"]["rate"] >= 0.95
    # Two cores: one learns, one renders.
    assert spent_s <= BUDGET_S, f"reached the goal, but training took {spent_s:.0f} s"
