"""Drives that explore layouts."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_recipes.first_person.drives import Drive, explore
from jepa_sim.worlds.first_person.layouts import pack, sample_layout
from jepa_sim.worlds.first_person.motion import MAX_SPEED_MPS, MAX_TURN_RADPS, MIN_SPEED_MPS
from jepa_sim.worlds.first_person.paths import path_length
from jepa_sim.worlds.first_person.world import MODEL_STEP_S

LAYOUT = sample_layout(np.random.default_rng(0), held_out=False, shape=(2, 1))


def drive(seed: int, steps: int = 40) -> Drive:
    return explore(pack([LAYOUT]), LAYOUT, steps, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def several() -> list[Drive]:
    return [drive(seed) for seed in range(8)]


def test_drive_of_the_same_seed_is_the_same_and_of_another_seed_is_not() -> None:
    one, same, other = drive(3, 8), drive(3, 8), drive(4, 8)
    for name in ("poses", "odometry", "commands"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))


def test_drives_move_inside_the_house_within_the_limits_of_the_robot(several: list[Drive]) -> None:
    for each in several:
        assert each.poses.shape == each.odometry.shape == (40, 3) and each.commands.shape == (39, 2)
        assert (each.poses[:, :2] > 0).all() and (each.poses[:, :2] < LAYOUT.size).all()
        assert (np.abs(each.commands[:, 1]) <= MAX_TURN_RADPS).all()
        assert (each.commands[:, 0] >= MIN_SPEED_MPS).all() and (each.commands[:, 0] <= MAX_SPEED_MPS).all()
        moved = np.hypot(*np.diff(each.poses[:, :2], axis=0).T)
        assert moved.max() <= 1.001 * MAX_SPEED_MPS * MODEL_STEP_S


def test_most_drives_get_somewhere(several: list[Drive]) -> None:
    assert np.median([path_length(each.poses) for each in several]) > 1.0


def test_odometry_begins_at_the_origin_and_is_near_but_not_equal_to_the_motion(several: list[Drive]) -> None:
    turns = [each.poses[:, 2] - each.poses[0, 2] - each.odometry[:, 2] for each in several]
    errors = np.abs((np.array(turns) + np.pi) % (2 * np.pi) - np.pi)
    assert all((each.odometry[0] == 0).all() for each in several)
    assert 0.0 < np.median(errors[:, -1]) < 0.3
