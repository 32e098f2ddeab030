"""Health monitoring of a new model, and the permission to switch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros.update", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_ros.update.health_watch import NodeHealthMonitor, SwitchPermission

from tests.ota.robots import Clock

pytestmark = pytest.mark.ros

NODE, STATUS = "/world_model", "world_model: inference"


class Watched:
    """Represent a monitored node with a settable clock."""

    def __init__(self, budget_ms: float | None = 10.0) -> None:
        self.clock = Clock()
        self.clock.sleep(100.0)
        self.watch = NodeHealthMonitor(NODE, silent_after_s=5.0, clock=self.clock.monotonic)
        self.say()
        self.watch.begin(budget_ms)

    def say(self, level: int = 0, message: str = "running", **values: str) -> None:
        self.watch.on_diagnostics(STATUS, level, message, {"pid": "7", "frame_age_s": "0.01"} | values)

    def second(self, **values: Any) -> None:
        self.clock.sleep(1.0)
        self.say(**values)
        self.watch.latent(np.zeros(3))

    @property
    def failure(self) -> str:
        return self.watch.failure()


def test_healthy_node_has_no_failure() -> None:
    watched = Watched()
    for _ in range(30):
        watched.second()
        for _ in range(30):
            watched.watch.timed(9.0)
    assert watched.failure == ""


def test_node_state_before_the_switch_does_not_count() -> None:
    watched = Watched()
    watched.second(level=2, message="10 results in a row were later")
    assert watched.failure == ""
    watched.second(level=2, message="3 frames failed")
    assert watched.failure == f"{STATUS}: 3 frames failed"


def test_failure_is_remembered() -> None:
    watched = Watched()
    for level in (0, 2, 0):
        watched.second(level=level, message="stalled")
    assert "stalled" in watched.failure
    watched.watch.begin(None)
    assert watched.failure == ""


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_are_a_failure(value: float) -> None:
    watched = Watched()
    watched.watch.latent(np.array([0.0, value]))
    assert watched.failure == "the model computes NaN or infinity"


def test_latents_are_not_missing_before_their_topic_was_discovered() -> None:
    watched = Watched()
    for _ in range(9):
        watched.clock.sleep(1.0)
        watched.say()
    assert watched.failure == ""
    watched.watch.expect_latents()
    for _ in range(6):
        watched.clock.sleep(1.0)
        watched.say()
    assert watched.failure == "images arrive, but no latent for 5 s"


@pytest.mark.parametrize("phase_s", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("pause_s", [3, 4, 6, 60])
def test_pausing_camera_is_not_a_failure(phase_s: float, pause_s: int) -> None:
    watched = Watched()
    watched.watch.expect_latents()
    watched.second()
    for age in range(pause_s):
        watched.clock.sleep(phase_s if age == 0 else 1.0)
        watched.say(frame_age_s=str(age + phase_s))
        watched.clock.sleep(0.04)
        assert watched.failure == ""
        watched.clock.sleep(-0.04)
    watched.clock.sleep(1.0)
    watched.say()
    assert watched.failure == "", "of the first image the latent is still to come"
    for _ in range(6):
        watched.second()
    assert watched.failure == ""


def surprise(watched: Watched, factor: float, frames: int = 900) -> None:
    for frame in range(frames):
        watched.watch.surprise(0.1, frame % 100 < 100 * factor)


@pytest.mark.parametrize(
    ("usual", "observed", "drifts"),
    [
        (0.01, 0.01, False),
        (0.01, 0.45, False),
        (0.01, 0.60, True),
        (0.70, 0.72, False),
        (0.70, 0.90, True),
        (None, 0.40, False),
        (None, 0.90, True),
    ],
)
def test_model_surprised_more_than_usual_has_drifted(
    usual: float | None, observed: float, drifts: bool
) -> None:
    watched = Watched()
    watched.watch.compare()
    if usual is not None:
        surprise(watched, usual)
    watched.watch.begin(None)
    surprise(watched, observed)
    assert watched.failure == "", "what surprises comes in bursts"
    for _ in range(10):
        watched.second()
    assert bool(watched.failure) is drifts
    if drifts:
        assert watched.failure.startswith(f"predictions drift: {900 * observed:.0f} of 900 frames")


def test_non_finite_surprise_is_a_failure() -> None:
    watched = Watched()
    watched.watch.surprise(np.nan, False)
    assert watched.failure == "the model computes NaN or infinity"


def test_model_with_next_to_no_results_was_idle() -> None:
    watched = Watched()
    for _ in range(9):
        watched.second()
    assert watched.watch.idle
    watched.second()
    assert not watched.watch.idle
    watched.watch.begin(None)
    assert watched.watch.idle


def test_unknown_node_is_absent() -> None:
    unseen, seen = NodeHealthMonitor(NODE, silent_after_s=5.0, clock=Clock().monotonic), Watched().watch
    assert (unseen.is_alive, unseen.was_seen, unseen.active_sha256) == (False, False, "")
    assert (seen.is_alive, seen.was_seen) == (True, True)


def test_silent_node_is_gone() -> None:
    watched = Watched()
    watched.clock.sleep(5.1)
    assert not watched.watch.is_alive and watched.failure == f"{NODE} is gone: no diagnostics for 5 s"


def test_restarted_node_is_a_failure() -> None:
    watched = Watched()
    watched.second(pid="8")
    assert "restarted" in watched.failure


def test_missing_latents_are_a_failure_only_while_images_arrive() -> None:
    watched = Watched()
    watched.watch.expect_latents()
    for _ in range(9):
        watched.clock.sleep(1.0)
        watched.say(frame_age_s="9.0")
    assert watched.failure == ""
    watched.say(frame_age_s="not a number")
    assert watched.failure == ""
    for _ in range(7):
        watched.clock.sleep(1.0)
        watched.say()
    assert watched.failure == "images arrive, but no latent for 5 s"


def test_late_frames_are_a_failure_once_they_are_significant() -> None:
    watched = Watched()
    for number in range(100):
        watched.watch.timed(11.0 if number in (40, 70) else 9.0)
    assert watched.failure == ""
    for _ in range(20):
        watched.watch.timed(11.0)
    assert "22 of 120 frames exceeded the latency budget of 10 ms" in watched.failure


def test_frames_without_a_budget_are_never_late() -> None:
    watched = Watched(budget_ms=None)
    for _ in range(100):
        watched.watch.timed(1e6)
    assert watched.failure == ""


def test_switch_permission_expires_and_the_last_message_counts() -> None:
    clock = Clock()
    clock.sleep(100.0)
    word = SwitchPermission(required=True, timeout_s=1.0, clock=clock.monotonic)
    assert not word.granted
    word.set(True)
    clock.sleep(1.0)
    assert word.granted
    clock.sleep(0.1)
    assert not word.granted
    word.set(True)
    word.set(False)
    assert not word.granted


def test_switch_permission_may_never_expire_or_not_be_required() -> None:
    clock = Clock()
    word = SwitchPermission(required=True, timeout_s=0.0, clock=clock.monotonic)
    word.set(True)
    clock.sleep(1e6)
    assert word.granted
    assert SwitchPermission(required=False, timeout_s=1.0).granted
