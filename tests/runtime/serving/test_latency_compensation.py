"""Futures start when their first action takes effect, from the state predicted of the sent commands."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.recording import messages
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.types import Candidates, Result
from tests.runtime.fakes import HORIZON, STEP_S, FakeModel, frame

STEP_NS = round(STEP_S * 1e9)
# A step of the fake model adds the first component of the action to the mean of the image.
IMAGE = 100
START_NS = frame(0).stamp_ns


class Robot:
    """A frame processor whose candidates stand, and state a delay."""

    def __init__(self, *, history_size: int = 1, actuation_delay_s: float = 0.0) -> None:
        self.model = FakeModel(history_size=history_size)
        self.delay_s = 0.0
        config = ProcessingConfig(candidates=self._candidates, actuation_delay_s=actuation_delay_s)
        self.processor = FrameProcessor(self.model, config)

    def command(self, at_s: float, value: float) -> None:
        self.processor.add_action(START_NS + round(at_s * 1e9), np.array([value, 0.0], np.float32))

    def image(self, at_s: float = 0.0, *, delay_s: float, value: int = IMAGE) -> Result:
        self.delay_s = delay_s
        return self.processor.process(frame(1, value, period_s=at_s), 0)

    def start(self, at_s: float = 0.0, *, delay_s: float, value: int = IMAGE) -> float:
        """Return by how much the state from which futures start differs from the image."""
        result = self.image(at_s, delay_s=delay_s, value=value)
        assert result.futures is not None
        return float(result.futures.latents[0, 0, 0, 0]) - value

    def _candidates(self) -> Candidates:
        stand = np.zeros((1, HORIZON, 2), np.float32)
        return Candidates(stand, "planner", 7, round(self.delay_s * 1e9))


@pytest.mark.parametrize(
    ("delay_s", "moved"), [(0.0, 0.0), (0.2, 8.0), (0.4, 16.0), (0.1, 4.0), (0.5, 20.0), (0.6, 24.0)]
)
def test_futures_start_after_the_delay_under_the_command_in_force(delay_s: float, moved: float) -> None:
    robot = Robot()
    robot.command(-1.0, 8.0)
    assert robot.start(delay_s=delay_s) == pytest.approx(moved)


def test_futures_start_after_the_commands_that_were_sent_and_a_stop() -> None:
    robot = Robot()
    for at_s, value in ((-1.0, 1.0), (0.05, 8.0), (0.3, 0.0)):
        robot.command(at_s, value)
    # 0.05 s of 1, 0.25 s of 8, then the stop, until 0.5 s.
    expected = (0.05 * 1.0 + 0.25 * 8.0) / STEP_S
    assert robot.start(delay_s=0.5) == pytest.approx(expected)


@pytest.mark.parametrize("delay_s", [0.001, 0.025])
def test_delay_within_the_tolerance_of_a_step_is_not_compensated(delay_s: float) -> None:
    robot = Robot()
    robot.command(-1.0, 8.0)
    result = robot.image(delay_s=delay_s)
    assert result.compensated_ns == 0 and robot.start(delay_s=delay_s) == 0.0


def test_delay_with_an_unknown_command_is_not_compensated() -> None:
    robot = Robot()
    robot.command(0.1, 8.0)
    assert robot.image(delay_s=0.4).compensated_ns == 0 and robot.start(delay_s=0.4) == 0.0


@pytest.mark.parametrize("delay_s", [-0.1, HORIZON * STEP_S + 0.001])
def test_delay_beyond_the_horizon_is_an_error(delay_s: float) -> None:
    robot = Robot()
    robot.command(-1.0, 8.0)
    with pytest.raises(ValueError, match="horizon"):
        robot.image(delay_s=delay_s)
    assert robot.start(delay_s=HORIZON * STEP_S) == pytest.approx(8.0 * HORIZON)


@pytest.mark.parametrize(("delay_s", "moved"), [(0.25, 8.0), (0.35, 16.0), (0.05, 0.0)])
def test_actions_that_are_no_rates_are_advanced_by_whole_steps(delay_s: float, moved: float) -> None:
    robot = Robot()
    robot.model.manifest.io.action.is_rate = False
    robot.command(-1.0, 8.0)
    assert robot.start(delay_s=delay_s) == pytest.approx(moved)


def test_actuation_delay_shifts_commands_and_the_start() -> None:
    robot = Robot(actuation_delay_s=0.2)
    robot.command(-1.0, 2.0)
    robot.command(0.1, 8.0)
    # The second command takes effect at 0.3 s; the first planned action, sent after 0.4 s, at 0.6 s.
    assert robot.start(delay_s=0.4) == pytest.approx((0.3 * 2.0 + 0.3 * 8.0) / STEP_S)
    assert robot.start(delay_s=0.0) == 0.0, "the planner asks for no compensation"


def test_history_with_several_latents_is_advanced() -> None:
    robot = Robot(history_size=3)
    robot.command(-1.0, 8.0)
    for at_s in (0.0, STEP_S, 2 * STEP_S):
        result = robot.image(at_s, delay_s=0.4)
    assert result.futures is not None and result.compensated_ns == 2 * STEP_NS
    assert float(result.futures.latents[0, 0, 0, 0]) - IMAGE == pytest.approx(16.0)


def test_clock_that_jumps_back_compensates_from_the_command_in_force() -> None:
    robot = Robot()
    robot.command(0.0, 8.0)
    robot.image(10.0, delay_s=0.4)
    result = robot.image(1.0, delay_s=0.4)
    assert result.reset is Reset.CLOCK_BACKWARDS and result.compensated_ns == 2 * STEP_NS
    assert robot.start(1.1, delay_s=0.4) == pytest.approx(16.0)


def test_surprise_compares_the_images_and_not_the_compensated_futures() -> None:
    plain, compensated = Robot(), Robot()
    results = []
    for robot, delay_s in ((plain, 0.0), (compensated, 0.4)):
        robot.command(-1.0, 8.0)
        robot.image(0.0, delay_s=delay_s)
        results.append(robot.processor.with_surprise(robot.image(STEP_S, delay_s=delay_s, value=IMAGE + 8)))
    assert results[0].surprise == results[1].surprise == pytest.approx(0.0)
    assert results[1].response == pytest.approx(1.0)


def test_bounds_are_those_of_the_time_after_the_image() -> None:
    robot = Robot()
    robot.command(-1.0, 8.0)
    result = robot.image(delay_s=0.3)
    assert result.futures is not None and result.calibration is not None
    # 0.3 s are two predicted steps: the first future step is the third after the image.
    np.testing.assert_allclose(result.futures.error_bounds, [1.5, math.inf, math.inf])
    np.testing.assert_allclose(result.calibration.bounds, [0.5, 1.0, 1.5])
    fields = messages.predicted_futures(result, robot.model)
    assert fields is not None
    assert messages.time_message(result.stamp_ns + 300_000_000) == fields["start"]
    np.testing.assert_allclose(fields["horizon_s"], [0.5, 0.7, 0.9])
    assert len(fields["error_coverage"]) == len(fields["errors_seen"]) == HORIZON
