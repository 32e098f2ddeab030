"""The default candidates: all directions, all within the limits, one of them standing."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_runtime.planning.candidates import default_candidates
from tests.runtime.fakes import HORIZON, manifest


@pytest.mark.parametrize("count", [1, 2, 5, 13, 64, 300])
@pytest.mark.parametrize(
    "limits",
    [
        {"low": (-1.0, -1.0), "high": (1.0, 1.0), "max_norm": 1.0},
        {"low": (-1.0, -2.0), "high": (1.0, 0.5), "max_norm": None},
        {"low": (0.0,), "high": (2.0,), "max_norm": None},
        {"low": (-1.0, -1.0, -3.0), "high": (1.0, 1.0, 3.0), "max_norm": 2.0},
        {"low": (0.5, -1.0), "high": (1.0, 1.0), "max_norm": 0.9},
        {"low": (0.5, 0.5), "high": (1.0, 1.0), "max_norm": 0.8},
        {"low": (0.1, -1.0), "high": (1.0, 1.0), "max_norm": 0.3},
    ],
)
def test_every_candidate_is_constant_and_within_the_limits(count: int, limits: dict[str, object]) -> None:
    actions = default_candidates(manifest(**limits), count)
    assert actions.shape == (count, HORIZON, len(limits["low"]))
    assert actions.dtype == np.float32
    assert (actions == actions[:, :1]).all()
    assert (actions >= np.float32(limits["low"])).all() and (actions <= np.float32(limits["high"])).all()
    if limits["max_norm"] is not None:
        assert np.linalg.norm(actions[:, 0], axis=1).max() <= limits["max_norm"] + 1e-6


def test_first_candidate_is_rest() -> None:
    assert not default_candidates(manifest(), 9)[0].any()


def test_rest_is_the_nearest_allowed_action_to_zero() -> None:
    slow = default_candidates(manifest(low=(0.2, -1.0), high=(1.0, 1.0), max_norm=None), 9)
    np.testing.assert_allclose(slow[0, 0], [0.2, 0.0])


def test_directions_cover_the_full_circle_at_several_magnitudes() -> None:
    actions = default_candidates(manifest(), 64)[1:, 0]
    angles = np.sort(np.arctan2(actions[:, 1], actions[:, 0]))
    assert np.diff(np.append(angles, angles[0] + 2 * np.pi)).max() < 0.3
    assert len(np.unique(np.round(np.linalg.norm(actions, axis=1), 3))) == 3


def test_norm_far_below_the_box_leaves_several_magnitudes() -> None:
    norms = np.linalg.norm(default_candidates(manifest(max_norm=0.3), 64)[1:, 0], axis=1)
    np.testing.assert_allclose(np.unique(norms.round(4)), [0.1, 0.2, 0.3])


def test_number_of_candidates_defaults_to_the_manifest() -> None:
    assert len(default_candidates(manifest())) == manifest().num_samples
    with pytest.raises(ValueError, match="at least 1"):
        default_candidates(manifest(), 0)
