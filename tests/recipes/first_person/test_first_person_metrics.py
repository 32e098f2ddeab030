"""The accuracy on held-out drives, and the thresholds that follow from it."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_recipes.first_person.evaluation import TABLES
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.metrics import measure, near_pairs
from jepa_recipes.first_person.networks import ActionPredictor, FrameEncoder, Networks, RelativePoseHead


def test_near_pairs_are_apart_in_tolerances_of_distance_and_turn() -> None:
    odometry = torch.tensor([[[0.0, 0, 0], [0.3, 0, 0], [0.3, 0, math.radians(30)], [9.0, 0, 0]]])
    apart, (drive, first, second) = near_pairs(odometry)
    found = {
        (int(one), int(other)): float(value) for one, other, value in zip(first, second, apart, strict=True)
    }
    assert set(drive.tolist()) == {0}
    expected = {(0, 1): 1.0, (1, 0): 1.0, (0, 2): 1.5, (2, 0): 1.5, (1, 2): 1.5, (2, 1): 1.5}
    assert found == pytest.approx(expected, abs=1e-5)


def test_metrics_of_a_predictor_that_predicts_no_motion(drives: DriveLibrary) -> None:
    torch.manual_seed(0)
    networks = Networks(FrameEncoder().eval(), RelativePoseHead().eval(), ActionPredictor().eval())
    found = measure(networks, drives, horizon=4, batches=2)
    assert len(found.error_bounds) == 4 and found.error_bounds == found.unchanged_bounds
    assert 0 < found.error_bounds[0] < found.error_bounds[3]
    assert found.surprise_threshold > 0 and found.goal_threshold > 0
    assert found.reached["0-0.5"] == pytest.approx(0.95, abs=0.04)
    assert set(found.readings) == set(TABLES)
    assert str(found) == str(measure(networks, drives, horizon=4, batches=2))
