"""The benchmarks of calibration: small runs work, and what cannot be run is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from tests.scripts import ROOT, load

calibration, conformal = load("calibration"), load("conformal")


def test_each_horizon_is_judged_from_the_first_latent_that_it_foresaw() -> None:
    with WorldModel.open(ROOT / "models" / "two_rooms") as model:
        run = calibration.drive(model, seed=1, frames=60)
        per_step, horizon = calibration.frames_per_step(model.manifest), model.manifest.horizon
    first = np.argmax(~np.isnan(run.errors), axis=0)
    assert first.tolist() == [per_step * step for step in range(1, horizon + 1)]
    assert not np.isnan(run.errors[first[-1] :]).any()


@pytest.mark.parametrize("event", calibration.EVENTS)
def test_what_cannot_be_surprises_more_than_the_same_without_it(event: str) -> None:
    change = calibration.EVENTS[event]
    with WorldModel.open(ROOT / "models" / "two_rooms") as model:
        start = np.array(model.manifest.error_bounds)
        usual, odd = (
            calibration.highest(
                calibration.scores(calibration.drive(model, seed=9003, frames=96, change=what, at=48), start)[
                    48:
                ]
            )
            for what in (None, change)
        )
    assert odd > usual


def test_a_run_too_short_to_be_judged_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["--frames", "100"]) == 2
    assert "--frames must be at least" in capsys.readouterr().err


def test_all_methods_cover_independent_errors_that_arrive_at_once(tmp_path: Path) -> None:
    written = tmp_path / "conformal.json"
    assert conformal.main(["--steps", "2000", "--streams", "4", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())["rows"]
    plain = [row for row in rows if row["stream"] == "independent" and row["delay"] == 0]
    assert {row["method"] for row in plain} == {"ours", "ACI", "DtACI", "PID"}
    for row in plain:
        assert abs(row["coverage_before"] - 0.9) < 0.03
