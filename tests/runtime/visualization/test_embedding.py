"""The map and the colors of latents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jepa_runtime.visualization.embedding import fit_embedding, fit_token_colors

FLOATS = st.floats(-100, 100, width=32)


def scenes(count: int, frames: int) -> np.ndarray:
    """Return scenes that are far apart, each with a robot that wanders in two directions of its latent."""
    rng = np.random.default_rng(0)
    result = np.zeros((count, frames, 2, 6), np.float32)
    result[:, :, 0] = 50 * rng.standard_normal((count, 1, 6))
    result[:, :, 1, 1:3] = 0.1 * rng.standard_normal((count, frames, 2)).cumsum(axis=1)
    return result.reshape(-1, 2, 6)


def test_embedding_shows_changes_and_not_scenes() -> None:
    latents = scenes(8, 50)
    fitted = fit_embedding(latents, lag=5)
    assert fitted.explained.sum() == pytest.approx(1.0, abs=1e-3)
    axes = fitted.axes.reshape(2, 2, 6)
    assert np.abs(axes[:, 0]).max() < 1e-3 and np.abs(np.delete(axes[:, 1], [1, 2], axis=1)).max() < 1e-3


def test_embedding_preserves_distances_of_changes() -> None:
    latents = scenes(1, 60)
    places = fit_embedding(latents, lag=3).project(latents)
    assert places.shape == (60, 2)
    apart = np.linalg.norm(latents[10] - latents[40])
    assert np.linalg.norm(places[10] - places[40]) == pytest.approx(apart, rel=1e-3)


def test_embedding_signs_are_fixed() -> None:
    latents = scenes(4, 30)
    one, other = fit_embedding(latents, 3), fit_embedding(latents.copy(), 3)
    np.testing.assert_array_equal(one.axes, other.axes)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in one.axes)


def test_projection_keeps_leading_axes() -> None:
    latents = scenes(2, 20)
    fitted = fit_embedding(latents, 2)
    np.testing.assert_allclose(
        fitted.project(latents.reshape(4, 10, 2, 6)), fitted.project(latents).reshape(4, 10, 2), atol=1e-4
    )
    assert fit_token_colors(latents).colors(latents.reshape(4, 10, 2, 6)).shape == (4, 10, 2, 3)


def test_token_colors_show_deviations_from_the_mean() -> None:
    latents = scenes(1, 60)
    colors = fit_token_colors(latents).colors(latents)
    assert colors.dtype == np.uint8
    assert np.ptp(colors[:, 0], axis=0).max() == 0, "the scene is always the same"
    assert np.ptp(colors[:, 1].astype(int), axis=0).max() > 200


@settings(max_examples=50)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 4)), elements=FLOATS)
)
def test_projection_and_colors_of_any_latents_are_finite(latents: np.ndarray) -> None:
    fitted = fit_embedding(latents, 2)
    assert np.isfinite(fitted.project(latents)).all()
    assert 0 <= fitted.explained.sum() <= 1.001
    assert fit_token_colors(latents).colors(latents).shape == (*latents.shape[:2], 3)
