"""Energies of latents to the newest image, or to another latent, on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BundleError, JepaRuntimeError
from jepa_runtime.model import WorldModel
from jepa_runtime.serving import Pipeline
from jepa_runtime.sources.base import Frame
from tests.errors import code
from tests.runtime.fakes import DIM, TOKENS, FakeModel, frame
from tests.runtime.pipelines import serve

PATIENCE_S = 5.0


def latents(*values: float) -> np.ndarray:
    return np.stack([np.full((TOKENS, DIM), value, np.float32) for value in values])


def opened(bundle: Path) -> Pipeline:
    return Pipeline(lambda: WorldModel.open(bundle), on_result=lambda _: None)


def test_score_returns_energies_to_the_newest_image_with_its_stamp() -> None:
    model = FakeModel()
    with serve(model) as served:
        served.feed(frame(0, 3), frame(1, 7))
        scores = served.pipeline.score(latents(3, 7, 9), timeout_s=PATIENCE_S)
    expected = model.energy(latents(3, 7, 9), model.encode(frame(1, 7).image))
    np.testing.assert_array_equal(scores.energies, expected)
    assert scores.stamp_ns == frame(1).stamp_ns and scores.latent_space == model.latent_space
    assert scores.energies.argmin() == 1


def test_score_returns_energies_to_a_given_latent_without_images() -> None:
    with serve() as served:
        scores = served.pipeline.score(latents(1, 2), latents(2)[0], timeout_s=PATIENCE_S)
    assert scores.energies[1] == 0 < scores.energies[0] and scores.stamp_ns == 0


def test_score_without_an_image_is_rejected_after_the_timeout() -> None:
    with (
        serve() as served,
        pytest.raises(JepaRuntimeError, check=code("evaluation.timeout"), match="no image"),
    ):
        served.pipeline.score(latents(1), timeout_s=0.1)


@pytest.mark.parametrize(
    ("given", "goal"),
    [
        (latents(1)[:0], None),
        (latents(1)[:, :-1], None),
        (latents(np.nan), None),
        (latents(1), latents(1)),
        (np.zeros((5000, TOKENS, DIM)), None),
    ],
)
def test_score_rejects_latents_of_another_shape(given: np.ndarray, goal: np.ndarray | None) -> None:
    with serve() as served, pytest.raises(ValueError, match="latents must be"):
        served.pipeline.score(given, goal, timeout_s=PATIENCE_S)


def test_score_reads_the_pose_of_the_newest_image_in_the_frames_of_some_latents(pose_bundle: Path) -> None:
    golden = Bundle.open(pose_bundle).golden()
    with opened(pose_bundle) as pipeline:
        pipeline.submit(Frame(golden.frames[0], 1_000_000_000, "camera", 0))
        assert pipeline.wait_idle(PATIENCE_S)
        scores = pipeline.score(golden.latents, timeout_s=PATIENCE_S, pose_indices=[2, 0])
        none = pipeline.score(golden.latents, timeout_s=PATIENCE_S)
    assert scores.poses.shape == (2, 5) and none.poses.shape == (0, 5)
    with WorldModel.open(pose_bundle) as model:
        expected = model.relative_poses(golden.latents[[2, 0]], model.encode(golden.frames[0]))
    np.testing.assert_allclose(scores.poses, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_score_with_poses_of_a_model_that_reads_none_is_rejected(toy_bundle: Path) -> None:
    golden = Bundle.open(toy_bundle).golden()
    with opened(toy_bundle) as pipeline, pytest.raises(BundleError, check=code("bundle.graph_missing")):
        pipeline.score(golden.latents, golden.latents[0], timeout_s=PATIENCE_S, pose_indices=[0])


@pytest.mark.parametrize("indices", [[2], [-1], [0, 1, 0]])
def test_score_rejects_pose_indices_that_are_not_those_of_latents(indices: list[int]) -> None:
    with serve() as served, pytest.raises(ValueError, match="pose_indices must be"):
        served.pipeline.score(latents(1, 2), latents(2)[0], timeout_s=PATIENCE_S, pose_indices=indices)
