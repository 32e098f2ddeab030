"""Metrics of computations whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips
from jepa_export.evaluation.comparison import EDGES, compare, compare_predictions, cosine, relative
from jepa_export.evaluation.reference_outputs import Outputs
from jepa_export.evaluation.surprise_separation import auroc, roc
from tests.errors import code

N, LENGTH, W, H, C, T, D = 5, 5, 2, 3, 2, 4, 8


def outputs(seed: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    return Outputs(
        rng.standard_normal((N, LENGTH, T, D)).astype(np.float32),
        rng.standard_normal((N, C, H, T, D)).astype(np.float32),
    )


def clips(frames: int = LENGTH) -> Clips:
    return Clips(
        name="noise",
        frames=np.zeros((N, frames, 2, 2, 3), np.uint8),
        history_actions=np.zeros((N, W - 1, 2), np.float32),
        actions=np.zeros((N, C, H, 2), np.float32),
        executed=True,
    )


def test_identical_outputs_have_cosine_1_and_no_drift() -> None:
    comparison = compare("itself", outputs(), outputs())
    assert (comparison.mean_cosine, comparison.worst_cosine, comparison.pooled_cosine) == pytest.approx(
        (1, 1, 1)
    )
    assert comparison.max_relative_error == 0 and comparison.drift == comparison.worst_drift == [0.0] * H
    assert comparison.histogram[0] == sum(comparison.histogram) == N * LENGTH * T


def test_one_rotated_token_shows_in_the_worst_cosine_only() -> None:
    turned = outputs()
    turned.latents[1, 2, 3] *= -1
    comparison = compare("fp32", turned, outputs())
    assert comparison.worst_cosine == pytest.approx(-1)
    assert comparison.mean_cosine == pytest.approx(1 - 2 / (N * LENGTH * T))
    assert comparison.histogram[-1] == 1
    largest = np.abs(outputs().latents).max()
    assert comparison.max_relative_error == pytest.approx(2 * np.abs(turned.latents[1, 2, 3]).max() / largest)


def test_scattered_tokens_show_in_the_worst_but_not_in_the_pooled_cosine() -> None:
    scattered, plain = outputs(), outputs()
    plain.latents[:] = 1
    scattered.latents[:] = 1
    scattered.latents[..., 0, :4] += 3
    scattered.latents[..., 1, :4] -= 3
    comparison = compare("fp32", scattered, plain)
    assert comparison.pooled_cosine == pytest.approx(1) and comparison.worst_cosine < 0.9


def test_drift_is_reported_per_step_relative_to_the_norm() -> None:
    drifted = outputs()
    drifted.futures[:, :, 1] *= 1.1
    drifted.futures[0, 0, 2] *= 1.5
    comparison = compare("fp32", drifted, outputs())
    assert comparison.drift == pytest.approx([0, 0.1, 0.5 / (N * C)], abs=1e-6)
    assert comparison.worst_drift == pytest.approx([0, 0.1, 0.5], abs=1e-6)


def test_prediction_error_is_compared_with_the_truth_and_with_standing_still() -> None:
    predictions = outputs()
    predictions.futures[:, 0] = predictions.latents[:, W:]
    predictions.futures[:, 0, 2] *= 1.2
    errors = compare_predictions(predictions, clips())
    assert errors.drift == pytest.approx([0, 0, 0.2], abs=1e-6)
    now = predictions.latents[:, W - 1]
    still = [np.mean(relative(now, predictions.latents[:, W + step])) for step in range(H)]
    assert errors.standing_still == pytest.approx(still)


def test_reference_of_another_size_is_rejected() -> None:
    larger = Outputs(np.zeros((N, LENGTH, T, 2 * D), np.float32), outputs().futures)
    with pytest.raises(JepaExportError, check=code("evaluation.shape_mismatch")):
        compare("teacher", outputs(), larger)


vectors = arrays(np.float64, (3, D), elements=st.floats(-1e3, 1e3, allow_subnormal=False))


@given(vectors, vectors, st.floats(0.01, 100))
def test_cosine_is_between_minus_1_and_1_and_ignores_length(
    ours: np.ndarray, theirs: np.ndarray, scale: float
) -> None:
    cosines = cosine(ours, theirs)
    assert (np.abs(cosines) <= 1).all()
    large = (np.linalg.norm(ours, axis=1) > 1e-3) & (np.linalg.norm(theirs, axis=1) > 1e-3)
    assert np.allclose(cosines[large], cosine(ours * scale, theirs)[large])


def test_zero_vectors_agree_only_with_each_other() -> None:
    nothing, something = np.zeros((1, D)), np.ones((1, D))
    assert cosine(nothing, nothing) == 1 and cosine(nothing, something) == 0


def test_bins_cover_all_cosines() -> None:
    assert EDGES[0] == pytest.approx(1e-9) and EDGES[-1] == pytest.approx(1)


scores = arrays(np.float64, 24, elements=st.integers(0, 9).map(float))


@given(scores, scores)
@settings(max_examples=50)
def test_auc_is_the_proportion_of_ordered_pairs(normal: np.ndarray, event: np.ndarray) -> None:
    value, interval = auroc(normal, event, seed=0)
    pairs = [(e > n) + (e == n) / 2 for e in event for n in normal]
    assert value == pytest.approx(np.mean(pairs))
    x, y = np.array(roc(normal, event)).T
    assert value == pytest.approx(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert interval is not None and 0 <= interval[0] <= interval[1] <= 1


def test_auc_interval_has_its_stated_coverage() -> None:
    # Two unit Gaussians one standard deviation apart: Phi(1 / sqrt(2)).
    rng, held = np.random.default_rng(0), 0
    for seed in range(100):
        _, interval = auroc(rng.standard_normal(100), rng.standard_normal(100) + 1, seed=seed)
        assert interval is not None
        held += interval[0] <= 0.7602 <= interval[1]
    assert 88 <= held <= 100


def test_few_scenes_have_no_interval() -> None:
    assert auroc(np.zeros(19), np.ones(19), seed=0) == (1.0, None)
