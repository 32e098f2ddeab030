"""Goals of a pipeline: images and latents; the newest one is used."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from jepa_runtime import BackendError
from jepa_runtime.model import RelativePose
from tests.runtime.fakes import DIM, HORIZON, NUM_SAMPLES, TOKENS, FakeModel, frame
from tests.runtime.pipelines import serve

POSE = RelativePose(1.0, -0.5, 0.25, 0.125, 0.0625)


def test_energies_use_the_latest_goal() -> None:
    model = FakeModel()
    model.timings["energy"] = 0.25
    with serve(model) as served:
        served.feed(frame(0, 3))
        served.pipeline.set_goal(np.full((8, 8, 3), 3, np.uint8), 11)
        served.pipeline.set_goal(np.full((8, 8, 3), 5, np.uint8), 22)
        served.feed(frame(1, 3))
        served.pipeline.set_goal(None)
        served.feed(frame(2, 3))
    before, goal_stamp, after = served.results
    assert before.current_energy is None and before.goal_stamp_ns is None
    assert goal_stamp.current_energy == pytest.approx(4.0)
    assert goal_stamp.goal_stamp_ns == 22
    assert goal_stamp.futures is not None and goal_stamp.futures.energies is not None
    assert goal_stamp.futures.energies.shape == (NUM_SAMPLES, HORIZON)
    assert after.current_energy is None and after.futures is not None and after.futures.energies is None
    # The energies of the futures, and of the frame itself.
    assert [result.timings_ms["energy"] for result in served.results] == [0.0, 0.5, 0.0]
    assert goal_stamp.timings_ms["predict"] == 0.01
    assert served.errors == []


def test_result_has_the_pose_of_the_goal_and_its_time() -> None:
    model = FakeModel()
    model.pose, model.timings["relative_pose"] = POSE, 0.25
    with serve(model) as served:
        served.feed(frame(0, 3))
        served.pipeline.set_goal(np.full((8, 8, 3), 3, np.uint8), 11)
        served.feed(frame(1, 3))
        served.pipeline.set_goal(None)
        served.feed(frame(2, 3))
    assert [result.goal_pose for result in served.results] == [None, POSE, None]
    assert [result.timings_ms["relative_pose"] for result in served.results] == [0.0, 0.25, 0.0]
    assert served.errors == []


def test_model_that_reads_no_poses_has_none() -> None:
    with serve() as served:
        served.pipeline.set_goal(np.full((8, 8, 3), 3, np.uint8), 11)
        served.feed(frame(0, 3))
    (result,) = served.results
    assert result.goal_pose is None and result.timings_ms["relative_pose"] == 0


def test_frame_with_an_invalid_pose_has_no_result() -> None:
    model = FakeModel()
    model.pose = POSE
    invalid = BackendError("a relative pose is not finite", code="backend.output_not_finite")
    with serve(model) as served:
        served.pipeline.set_goal(np.full((8, 8, 3), 3, np.uint8), 11)
        served.feed(frame(0, 3))
        with patch.object(model, "goal_pose", side_effect=invalid):
            served.feed(frame(1, 3))
        served.feed(frame(2, 3))
    assert [result.sequence for result in served.results] == [0, 2]
    assert [error for error, _ in served.errors] == [invalid]


def test_goal_that_cannot_be_encoded_clears_the_previous_one() -> None:
    with serve() as served:
        served.pipeline.set_goal(np.full((8, 8, 3), 5, np.uint8), 11)
        served.feed(frame(0))
        served.pipeline.set_goal(np.zeros(3, np.uint8), 22)
        served.feed(frame(1))
    assert [result.goal_stamp_ns for result in served.results] == [11, None]
    assert [str(error) for error, _ in served.errors] == ["not an image"]


def test_goal_may_be_a_latent() -> None:
    with serve() as served:
        served.pipeline.set_goal(np.full((TOKENS, DIM), 5.0, np.float32), 11)
        served.feed(frame(0, 3))
    (result,) = served.results
    assert result.current_energy == pytest.approx(4.0) and result.goal_stamp_ns == 11


@pytest.mark.parametrize(
    "goal", [np.zeros((TOKENS, DIM + 1), np.float32), np.full((TOKENS, DIM), np.nan, np.float32)]
)
def test_goal_latent_of_another_model_is_rejected_and_the_goal_kept(goal: np.ndarray) -> None:
    with serve() as served:
        served.pipeline.set_goal(np.full((8, 8, 3), 5, np.uint8), 11)
        with pytest.raises(ValueError, match=r"the goal must be \[2, 4\] finite numbers"):
            served.pipeline.set_goal(goal, 22)
        served.feed(frame(0))
    assert served.results[0].goal_stamp_ns == 11


@pytest.mark.parametrize(("space", "goals"), [("fake", [11, 11]), ("other", [11, None])])
def test_goal_latent_survives_a_swap_within_its_latent_space(space: str, goals: list[int | None]) -> None:
    other = FakeModel()
    other.latent_space = space
    with serve() as served:
        served.pipeline.set_goal(np.zeros((TOKENS, DIM), np.float32), 11)
        served.feed(frame(0))
        served.pipeline.swap(lambda: other)
        served.feed(frame(1))
    assert [result.goal_stamp_ns for result in served.results] == goals
