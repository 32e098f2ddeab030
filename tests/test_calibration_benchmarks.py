"""The calibration benchmarks: small runs, and error messages."""

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


def test_wander_evaluates_every_step_from_one_horizon_on() -> None:
    with WorldModel.open(ROOT / "models" / "two_rooms", num_samples=1) as model:
        run = calibration.wander(model, seed=1, before=10, after=4)
        horizon = model.manifest.horizon
    assert run.steps.tolist() == list(range(horizon - 10, 4))
    assert np.isfinite(run.errors).all() and np.isfinite(run.stated).all()


def test_drive_change_after_n_steps_shows_in_the_errors() -> None:
    """Steps count from the change: the two runs are the same before it, and differ after it."""
    bundle = Bundle.open(ROOT / "models" / "two_rooms")
    with WorldModel.open(bundle, num_samples=bundle.manifest.num_samples) as model:
        usual, dark = (
            calibration.drive(model, seed=1, before=12, after=6, change=change)
            for change in (None, calibration.CHANGES["lighting"])
        )
    assert dark.steps.tolist() == list(range(bundle.manifest.horizon - 12, 6))
    assert np.isfinite(dark.errors).all() and np.isfinite(dark.stated).all()
    same = (usual.errors == dark.errors).all(axis=1)
    assert same.tolist() == (dark.steps < 0).tolist()


@pytest.mark.parametrize("event", calibration.EVENTS)
def test_impossible_event_surprises_more_than_the_run_without_it(event: str) -> None:
    with WorldModel.open(ROOT / "models" / "two_rooms", num_samples=1) as model:
        usual, impossible = (
            calibration.wander(model, seed=9003, before=16, after=8, change=change).highest()
            for change in (None, calibration.EVENTS[event])
        )
    assert impossible > usual


def run_within(within: dict[int, bool]) -> Any:
    """Return a run of one horizon with a bound of 1 whose errors lie within it as given."""
    errors = np.array([[0.5 if held else 2.0] for held in within.values()])
    return calibration.Run(np.array(list(within)), errors, np.ones_like(errors), [None] * len(errors), [])


def test_coverage_counts_the_requested_steps() -> None:
    runs = [run_within({-1: False, 0: True, 1: True, 2: False, 3: True}), run_within({0: True, 4: False})]
    (row,) = calibration.coverage(runs, np.array([3.0]), 0, 4)
    assert (row["errors"], row["coverage"], row["coverage_of_the_bundle"]) == (5, 0.8, 1.0)
    assert calibration.farthest([row]) == pytest.approx(10)


def test_false_alarms_are_counted_over_one_continuous_stream() -> None:
    """High blocks at the end of one run and at the beginning of the next are a change, neither alone is."""
    normal = NormalScores(data="made up", block=8, highest=tuple(np.linspace(0.01, 1, 1250)))
    shipped = Bundle.open(ROOT / "models" / "two_rooms").manifest
    manifest = shipped.model_copy(update={"normal_scores": normal})
    often = np.quantile(normal.highest, 0.95)
    pair = 2 * normal.block

    def run(high: set[int]) -> Any:
        steps = np.arange(-12 * pair, 0)
        values = [often if step // pair in high else 0.0 for step in steps]
        nothing = np.full((len(steps), 1), np.nan)
        scores = [None, *(Score(value, 1) for value in values[1:])]
        return calibration.Run(steps, nothing, nothing, scores, [])

    alarms = calibration.false_alarms(manifest, [run({-2, -1}), run({-12})])
    assert alarms["false_alarms"] == {"surprise": 0, "change": 1}
    assert alarms["normal_s"] == pytest.approx(2 * (12 * pair - 1) * 0.2)
    apart = [calibration.false_alarms(manifest, [run(high)]) for high in ({-2, -1}, {-12})]
    assert [each["false_alarms"]["change"] for each in apart] == [0, 0]


def test_settled_bounds_that_start_too_wide_settle_without_low_coverage() -> None:
    """Nine of ten errors lie within from step 100 on, and all of them before."""
    runs = [run_within({step: step < 100 or step % 10 > 0 for step in range(calibration.WANDERING)})]
    actual = calibration.settled(runs, np.array([1.0]), 0.2)
    # Of the 200 steps from step 50 on, the first 50 are too wide: 2.5 points.
    assert actual["settled_after_s"] == pytest.approx(75 * 0.2)
    assert actual["max_shortfall_points"] == pytest.approx(0)
    assert actual["max_deviation_points_after_limit"] == pytest.approx(0)
    assert [point["from_step"] for point in actual["curve"]] == list(range(0, 600, 25))
    assert actual["curve"][0]["coverage"] == [1.0]


def test_settled_rejects_bounds_that_stay_too_wide() -> None:
    runs = [run_within({step: True for step in range(calibration.WANDERING)})]
    actual = calibration.settled(runs, np.array([1.0]), 0.2)
    assert actual["settled_after_s"] is None
    assert actual["max_deviation_points_after_limit"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("worse", "failure"),
    [
        ({}, None),
        ({"before": 2.1}, "driving: coverage is 2.1 points too low"),
        ({"later": 2.1}, "driving, friction, from_100_to_400_after: coverage is 2.1 points off"),
        ({"short": 2.1}, "wandering, over 200 steps: coverage is 2.1 points too low"),
        ({"settled": 2.1}, "wandering, after 60 s: coverage is 2.1 points off"),
        ({"auroc": 0.97}, "teleport: AUROC 0.970, required 0.98"),
    ],
)
def test_failures_name_each_value_beyond_its_limit(worse: dict[str, float], failure: str | None) -> None:
    values = {"before": 1.9, "later": 1.9, "short": 1.9, "settled": 1.9, "auroc": 0.98} | worse
    points = {"first_50_after": 40.0, "from_100_to_400_after": values["later"]}
    report = {
        "driving": {"shortfall_points": values["before"]},
        "changes": {"friction": {"max_deviation_points": points}},
        "wandering": {
            "max_shortfall_points": values["short"],
            "max_deviation_points_after_limit": values["settled"],
        },
        "surprise": {"events": {"teleport": {"auroc": values["auroc"]}}},
    }
    assert calibration.failures(report) == ([] if failure is None else [failure])


def test_all_methods_cover_independent_errors_without_delay(tmp_path: Path) -> None:
    written = tmp_path / "conformal.json"
    assert conformal.main(["--steps", "2000", "--streams", "4", "--json", str(written)]) == 0
    rows = json.loads(written.read_text())["rows"]
    plain = [row for row in rows if row["stream"] == "independent" and row["delay"] == 0]
    assert {row["method"] for row in plain} == {"ours", "fixed rate", "ACI", "DtACI", "PID"}
    for row in plain:
        assert abs(row["coverage_before"] - 0.9) < 0.03
