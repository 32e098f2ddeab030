"""Pairs of frames."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_recipes.first_person import pairs
from jepa_recipes.first_person.pairs import sample_pairs


def line(drives: int = 3, frames: int = 30, step_m: float = 0.1) -> np.ndarray:
    """Return drives straight ahead: the number of pairs falls with their distance."""
    odometry = np.zeros((drives, frames, 3), np.float32)
    odometry[..., 0] = step_m * np.arange(frames)
    return odometry


def distances(odometry: np.ndarray, drawn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    first, second = (odometry.reshape(-1, 3)[numbers] for numbers in drawn)
    return np.hypot(*(second - first)[:, :2].T)


def test_pairs_are_of_one_drive_and_within_reach() -> None:
    odometry = line()
    first, second = sample_pairs(odometry, 50, reach_m=1.25, rng=np.random.default_rng(0))
    assert len(first) == 150 and (first != second).all()
    assert (first // 30 == np.repeat(np.arange(3), 50)).all() and (first // 30 == second // 30).all()
    assert distances(odometry, (first, second)).max() < 1.25


def test_far_pairs_are_as_frequent_as_near_ones() -> None:
    odometry = line()
    drawn = sample_pairs(odometry, 4000, reach_m=2.4, rng=np.random.default_rng(0))
    thirds = np.histogram(distances(odometry, drawn), bins=[0, 0.75, 1.55, 2.4])[0] / 12000
    # Drawn at random, 0.44 would be in the first of these bins and 0.22 in the last.
    np.testing.assert_allclose(thirds, 1 / 3, atol=0.08)


def test_rare_pairs_side_by_side_are_drawn_more_often() -> None:
    odometry = line(drives=20, frames=10)
    # Two of the frames look to the left, from places of the drive that are apart.
    odometry[:, 8] = [0.2, 0.0, np.pi / 2]
    odometry[:, 9] = [0.7, 0.0, np.pi / 2]
    drawn = sample_pairs(odometry, 500, reach_m=1.0, rng=np.random.default_rng(0))
    both_aside = np.mean([(numbers % 10 >= 8) for numbers in drawn], axis=0) == 1
    # Drawn at random, it would be 2 of 90.
    assert both_aside.mean() > 0.035


def test_pairs_that_look_in_opposite_directions_are_drawn_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    odometry = line(drives=20, frames=10)
    odometry[:, 1::2, 2] = 3.0

    def opposite() -> float:
        first, second = sample_pairs(odometry, 400, reach_m=1.0, rng=np.random.default_rng(0))
        return float(np.mean(first % 2 != second % 2))

    fewer = opposite()
    monkeypatch.setattr(pairs, "_TURN_WEIGHTS", np.ones(3))
    assert 0 < fewer < 0.75 * opposite()


def test_turn_over_the_limit_of_the_circle_counts_as_small() -> None:
    odometry = line(drives=1, frames=4)
    odometry[0, :, 2] = [3.1, -3.1, 3.1, 0.0]
    odometry[0, :, 0] = [0.0, 0.1, 0.2, 0.1]
    first, second = sample_pairs(odometry, 3000, reach_m=1.0, rng=np.random.default_rng(0))
    # Of 12 pairs, six have the frame that looks in the opposite direction.
    assert np.mean((first == 3) | (second == 3)) < 0.4


def test_turns_away_from_the_side_of_the_other_frame_are_as_frequent_as_turns_toward_it() -> None:
    odometry = line(drives=20, frames=10)
    # The robot turns to the side to which it drives, except once.
    odometry[..., 1] = 0.1 * np.arange(10)
    odometry[..., 2] = 0.05 * np.arange(10)
    odometry[:, 9, 2] = -0.5
    first, second = sample_pairs(odometry, 2000, reach_m=2.0, rng=np.random.default_rng(0))
    away = np.mean((first % 10 == 9) | (second % 10 == 9))
    # Drawn at random, it would be 18 of 90.
    assert away > 0.35


def test_drive_without_near_frames_contributes_any_pairs() -> None:
    odometry = line(drives=1, frames=3, step_m=10.0)
    first, second = sample_pairs(odometry, 5, reach_m=1.0, rng=np.random.default_rng(0))
    assert len(first) == 5 and (first != second).all()


def test_pairs_follow_from_the_random_numbers() -> None:
    one, same, other = (sample_pairs(line(), 8, reach_m=2.0, rng=np.random.default_rng(n)) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
