"""The evaluation on held-out drives."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_recipes.first_person.evaluation import TABLES, evaluate, reading_errors
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.networks import ActionPredictor, FrameEncoder, RelativePoseHead


def test_reading_errors_of_known_readings() -> None:
    poses = torch.tensor([[1.0, 0.0, math.pi / 4], [-0.3, 0.4, -3.1]])
    read = torch.zeros(2, 8)
    read[:, 0:2] = torch.tensor([[0.0, 2.0], [-0.6, 0.8]])
    read[:, 2] = torch.log(torch.tensor([1.15, 0.65])) + torch.tensor([0.5, 0.0])
    read[:, 3:5] = torch.tensor([[1.0, 0.0], [math.cos(3.1), math.sin(3.1)]])
    read[:, 7] = torch.tensor([0.0, -1.0])
    expected = torch.tensor(
        [
            [1.0, 45.0, 0.0, 90.0, 45.0, 0.5, 57.2958],
            [0.5, 177.6169, 126.8699, 0.0, 4.7662, 0.0, 21.0779],
        ]
    )
    torch.testing.assert_close(reading_errors(read, poses), expected, rtol=1e-4, atol=1e-3)


def test_evaluation_is_reproducible_and_leaves_the_random_numbers_of_training_alone(
    drives: DriveLibrary,
) -> None:
    torch.manual_seed(0)
    networks = FrameEncoder(), RelativePoseHead(), ActionPredictor()
    before = torch.get_rng_state()
    tables = evaluate(*networks, drives, batches=1)
    assert torch.equal(torch.get_rng_state(), before)
    again = evaluate(*networks, drives, batches=1)
    assert tuple(tables) == TABLES
    assert {name: str(row) for name, row in tables.items()} == {name: str(row) for name, row in again.items()}


def test_evaluation_reports_errors_by_distance_and_turn(drives: DriveLibrary) -> None:
    torch.manual_seed(0)
    tables = evaluate(FrameEncoder(), RelativePoseHead(), ActionPredictor(), drives, batches=3)
    for name in TABLES[:3]:
        assert list(tables[name])[:2] == ["0.2-0.6m_0-45deg", "0.2-0.6m_45-90deg"] and len(tables[name]) == 10
    assert 0 <= tables["bearing_deg"]["0.2-0.6m_0-45deg"] <= 180
    by_bearing = tables["bearing_deg_by_bearing"]
    assert list(by_bearing)[1] == "0.2-0.6m_20-60deg" and len(by_bearing) == 20
    assert list(tables["overconfident"]) == ["0-45deg", "45-90deg", "90-135deg", "135-180deg"]
    # An untrained predictor predicts that nothing moves.
    row = tables["prediction_error"]
    assert row["step_2"] == row["unchanged_2"] > 0


class ConstantHead(RelativePoseHead):
    """Reads the same from all pairs: nothing has moved, with this logarithm of all expected errors."""

    def __init__(self, log_scale: float) -> None:
        super().__init__()
        self.log_scale = log_scale

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        del second
        read = torch.zeros(len(first), 8)
        read[:, 3], read[:, 5:] = 1.0, self.log_scale
        return read


def test_confident_readings_of_large_turns_as_none_are_overconfident(drives: DriveLibrary) -> None:
    networks = FrameEncoder(), ActionPredictor()
    for log_scale, expected in ((-3.0, [0.0, 1.0, 1.0, 1.0]), (0.0, [0.0] * 4)):
        tables = evaluate(networks[0], ConstantHead(log_scale), networks[1], drives, batches=8)
        assert list(tables["overconfident"].values()) == expected
