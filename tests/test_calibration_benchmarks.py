"""The benchmarks of calibration: small runs work, and what cannot be run is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.bundle import Bundle
from jepa_runtime.bundle.manifest import NormalScores
from jepa_runtime.calibration import Score
from tests.scripts import ROOT, load

calibration, conformal = load("calibration"), load("conformal")


def test_a_run_is_judged_once_a_step_from_a_whole_horizon_on() -> None:
    with WorldModel.open(ROOT / "models" / "two_rooms", num_samples=1) as model:
        run = calibration.drive(model, seed=1, before=10, after=4)
        horizon = model.manifest.horizon
    assert run.steps.tolist() == list(range(horizon - 10, 4))
    assert np.isfinite(run.errors).all() and np.isfinite(run.stated).all()


@pytest.mark.parametrize("event", calibration.EVENTS)
def test_what_cannot_be_surprises_more_than_the_same_without_it(event: str) -> None:
    with WorldModel.open(ROOT / "models" / "two_rooms", num_samples=1) as model:
        usual, odd = (
            calibration.drive(model, seed=9003, before=16, after=8, change=change).highest()
            for change in (None, calibration.EVENTS[event])
        )
    assert odd > usual


def made_up(within: dict[int, bool]) -> Any:
    """A run of one horizon with a bound of 1, in which errors lie within it or not."""
    errors = np.array([[0.5 if held else 2.0] for held in within.values()])
    return calibration.Run(np.array(list(within)), errors, np.ones_like(errors), [None] * len(errors), [])


def test_coverage_counts_the_steps_asked_for() -> None:
    runs = [made_up({-1: False, 0: True, 1: True, 2: False, 3: True}), made_up({0: True, 4: False})]
    (row,) = calibration.coverage(runs, np.array([3.0]), 0, 4)
    assert (row["errors"], row["coverage"], row["coverage_of_the_bundle"]) == (5, 0.8, 1.0)
    assert calibration.farthest([row]) == pytest.approx(10)


def test_false_alarms_are_those_of_a_stream_that_does_not_begin_anew_with_each_run() -> None:
    """High blocks at the end of one run and at the beginning of the next are a change, alone neither are."""
    normal = NormalScores(data="made up", block=8, highest=tuple(np.linspace(0.01, 1, 1250)))
    shipped = Bundle.open(ROOT / "models" / "two_rooms").manifest
    manifest = shipped.model_copy(update={"normal_scores": normal})
    often = np.quantile(normal.highest, 0.95)
    pair = 2 * normal.block

    def run(high: set[int]) -> Any:
        steps = np.arange(-12 * pair, 4)
        values = [often if step // pair in high or step >= 0 else 0.0 for step in steps]
        nothing = np.full((len(steps), 1), np.nan)
        scores = [None, *(Score(value, 1) for value in values[1:])]
        return calibration.Run(steps, nothing, nothing, scores, [])

    found = calibration.false_alarms(manifest, [run({-2, -1}), run({-12})])
    assert found["false_alarms"] == {"surprise": 0, "change": 1}
    assert found["normal_seconds_watched"] == pytest.approx(2 * (12 * pair - 1) * 0.2)
    apart = [calibration.false_alarms(manifest, [run(high)]) for high in ({-2, -1}, {-12})]
    assert [each["false_alarms"]["change"] for each in apart] == [0, 0]


@pytest.mark.parametrize(
    ("before", "later", "auroc", "fine"),
    [(1.9, 1.9, 0.98, True), (2.1, 0.0, 1.0, False), (0.0, 2.1, 1.0, False), (0.0, 0.0, 0.97, False)],
)
def test_the_benchmark_fails_where_coverage_or_surprise_is_not_what_it_should_be(
    before: float, later: float, auroc: float, fine: bool
) -> None:
    points = {"before": before, "first_50_after": 40.0, "from_200_to_400_after": later}
    report = {
        "coverage": {"friction": {"farthest_points": points}},
        "surprise": {"events": {"teleport": {"auroc": auroc}}},
    }
    assert calibration.holds(report) is fine


def test_a_run_too_short_to_be_judged_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["--before", "50"]) == 2
    assert "--before must be more than" in capsys.readouterr().err


def test_all_methods_cover_independent_errors_that_arrive_at_once(tmp_path: Path) -> None:
    written = tmp_path / "conformal.json"
    assert conformal.main(["--steps", "2000", "--streams", "4", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())["rows"]
    plain = [row for row in rows if row["stream"] == "independent" and row["delay"] == 0]
    assert {row["method"] for row in plain} == {"ours", "fixed rate", "ACI", "DtACI", "PID"}
    for row in plain:
        assert abs(row["coverage_before"] - 0.9) < 0.03
