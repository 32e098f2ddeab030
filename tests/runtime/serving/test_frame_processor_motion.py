"""Response of a frame to the executed motion, and discontinuities."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.types import Result
from tests.runtime.fakes import STEP_S, FakeModel, frame

PERIOD_S = STEP_S / 4
# Of the fake model a step adds the first component of the action to the mean of the image.
PER_STEP = 8.0


@pytest.fixture
def inference() -> FrameProcessor:
    return FrameProcessor(FakeModel(), ProcessingConfig())


def run(inference: FrameProcessor, values: list[int], action: float = PER_STEP) -> list[Result]:
    """Return results for images of these values, one period apart, while ``action`` is executed."""
    inference.add_action(0, np.array([action, 0.0], np.float32))
    frames = (frame(index, value, period_s=PERIOD_S) for index, value in enumerate(values))
    return [inference.with_surprise(inference.process(each, 0)) for each in frames]


def test_frames_that_move_as_predicted_respond(inference: FrameProcessor) -> None:
    results = run(inference, [0, 2, 4, 6, 8, 10, 12, 14])
    assert [result.response for result in results[4:]] == pytest.approx([1.0] * 4)
    np.testing.assert_array_equal(results[-1].executed, [PER_STEP, 0.0])
    assert not any(result.discontinuous for result in results)


@pytest.mark.parametrize(
    ("values", "response"),
    [([5] * 8, 0.0), ([20, 18, 16, 14, 12, 10, 8, 6], -1.0), ([0, 1, 2, 3, 4, 5, 6, 7], 0.5)],
)
def test_response_is_the_fraction_of_the_predicted_change(
    inference: FrameProcessor, values: list[int], response: float
) -> None:
    assert run(inference, values)[-1].response == pytest.approx(response)


def test_alternating_images_respond_equally_along_and_against_the_motion(inference: FrameProcessor) -> None:
    ring = [0, 2, 4] * 12
    responses = [result.response for result in run(inference, ring)[4:]]
    assert np.mean(responses[-24:]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("action", [0.0, 0.1])
def test_motion_within_the_error_bound_has_no_response(inference: FrameProcessor, action: float) -> None:
    assert math.isnan(run(inference, [5] * 8, action)[-1].response)


def test_frames_without_a_prediction_have_no_response(inference: FrameProcessor) -> None:
    first = run(inference, [5])[0]
    assert math.isnan(first.response) and first.executed is None and not first.discontinuous


def test_alternating_actions_have_their_magnitude_despite_a_small_mean(
    inference: FrameProcessor,
) -> None:
    """Driving back and forth counts as much motion as driving straight."""
    for index in range(16):
        stamp_ns = frame(index, period_s=PERIOD_S).stamp_ns
        inference.add_action(stamp_ns, np.array([PER_STEP * (-1) ** index, 0.0], np.float32))
    for index in range(16):
        result = inference.with_surprise(inference.process(frame(index, 5, period_s=PERIOD_S), 0))
    np.testing.assert_allclose(result.executed, [PER_STEP, 0.0], rtol=1e-5)
    assert math.isnan(result.response)


@pytest.mark.parametrize("pattern", [[0, 50], [0, 0, 50], [0, 50, 50]])
def test_alternating_images_of_two_cameras_are_discontinuous(
    inference: FrameProcessor, pattern: list[int]
) -> None:
    """At an even rate each image equals the one a step before, so that none is surprising."""
    results = run(inference, pattern * 12, 0.0)[4:]
    jumps = sum(a != b for a, b in zip(pattern, pattern[1:] + pattern[:1], strict=True))
    assert sum(result.discontinuous for result in results) >= len(results) * jumps / len(pattern) - 2


@pytest.mark.parametrize("changed", [{"frame_id": "other"}, {"image": np.full((9, 9, 3), 4, np.uint8)}])
def test_another_frame_id_or_size_resets_the_history(
    inference: FrameProcessor, changed: dict[str, object]
) -> None:
    run(inference, [0, 2, 4])
    assert inference.process(frame(3, 4, period_s=PERIOD_S), 0).reset is None
    assert inference.process(replace(frame(4, 4, period_s=PERIOD_S), **changed), 0).reset is Reset.FRAME
    again = replace(frame(5, 4, period_s=PERIOD_S), **changed)
    assert inference.process(again, 0).reset is None


def test_history_is_immutable_from_outside(inference: FrameProcessor) -> None:
    result = run(inference, [5] * 6)[-1]
    with pytest.raises(ValueError, match="read-only"):
        result.latent[:] = 1e6
    assert result.latent is inference._streams[""].history._latents[-1], "without a copy"
