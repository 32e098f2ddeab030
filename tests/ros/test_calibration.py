"""Error bounds, surprise events and the black box on a running graph."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import PredictedFutures, SurpriseEvent
from jepa_ros.common.conversions import from_time, to_image
from jepa_ros.world_model.calibration_report import calibration_values, degradation_warnings
from lifecycle_msgs.msg import Transition
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from jepa_runtime.calibration import Calibration, CoverageRate
from jepa_runtime.sources.bag import BagSource
from jepa_runtime.telemetry.diagnostics import Level, Verdict, with_warnings
from jepa_sim.worlds.two_rooms_world import TwoRooms
from tests.ros.test_world_model import image, served

pytestmark = pytest.mark.ros


def values(received: list[DiagnosticArray]) -> dict[str, str]:
    return {pair.key: pair.value for pair in received[-1].status[0].values} if received else {}


class Eye:
    """Fake a camera that shows a standing robot, which can be moved."""

    def __init__(self, graph: Any) -> None:
        self._world = TwoRooms(seed=4)
        self._images = graph.publisher(Image, "camera/image_raw", qos_profile_sensor_data)
        self._commands = graph.publisher(Twist, "cmd_vel")
        self._view = "camera"
        self.stamp_ns = 0

    def move(self, view: str) -> int:
        """Move the robot and use frame_id ``view`` from now on; return the stamp of the last image."""
        self._world.reset()
        self._view = view
        return self.stamp_ns

    def look(self) -> None:
        self.stamp_ns = time.time_ns()
        self._world.step(np.zeros(2), 0.04)
        self._images.publish(to_image(self._world.render(), stamp_ns=self.stamp_ns, frame_id=self._view))
        self._commands.publish(Twist())


def test_unannounced_jump_raises_an_alarm_with_a_recording_and_an_announced_one_does_not(
    ros_graph: Any, two_rooms_bundle: Path
) -> None:
    graph, bags = ros_graph, ros_graph.folder / "bags"
    events = graph.listen(SurpriseEvent, "world_model/events")
    futures = graph.listen(PredictedFutures, "world_model/futures")
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    box = {"black_box_dir": bags, "black_box_before_s": 3.0, "black_box_after_s": 1.0}
    graph.start("world_model", {"bundle": two_rooms_bundle, **box}, ("image:=camera/image_raw",))
    eye = Eye(graph)

    def has_errors(count: int) -> bool:
        return bool(futures) and min(futures[-1].errors_seen) >= count

    graph.until(lambda: has_errors(3), "errors of the first place", meanwhile=eye.look)
    before = futures[-1].error_bounds
    eye.move("camera#2")
    graph.until(lambda: has_errors(8), "errors of the second place", meanwhile=eye.look)
    assert not events, "nothing is predicted across an announced jump"
    jump_ns = eye.move("camera#2")
    graph.until(lambda: list(bags.glob("*.mcap")), "a bag", meanwhile=eye.look)

    event = events[0]
    assert event.kind == "surprise" and event.ongoing and event.score > event.threshold > 0
    assert 0 <= from_time(event.start) - jump_ns < 0.5e9
    assert (event.false_alarm_every_s, event.confidence) == (600.0, pytest.approx(0.95))
    # An error during normal driving may miss its bound, which widens it by about 5 %.
    assert max(futures[-1].error_bounds) <= 1.2 * max(before), "the jump does not teach the bounds"

    latest = futures[-1]
    assert latest.error_probability == pytest.approx(0.9)
    assert len(latest.error_coverage) == len(latest.errors_seen) == len(latest.error_bounds)
    assert min(latest.errors_seen) > 5 and np.isfinite(latest.error_coverage).all()
    graph.until(lambda: values(diagnostics).get("black_box/written") == "1", "the bag in the diagnostics")
    assert "coverage" in values(diagnostics)["error_bounds/step_8"]
    assert values(diagnostics)["alarms"] == "enabled"

    (bag,) = bags.glob("*.mcap")
    source = BagSource(bag, action="/cmd_vel:linear.x,linear.y")
    frames = [(frame.stamp_ns, frame.image.astype(int), source.command) for frame in source.frames()]
    source.close()
    begun_ns = from_time(event.header.stamp)
    assert begun_ns - 3.1e9 < frames[0][0] < begun_ns - 2.8e9
    assert begun_ns + 0.9e9 < frames[-1][0] < begun_ns + 1.2e9
    assert all(command is not None for *_, command in frames)
    changes = [np.abs(later[1] - earlier[1]).mean() for earlier, later in pairwise(frames)]
    after = next(index for index, (stamp_ns, *_) in enumerate(frames) if stamp_ns > jump_ns)
    assert frames[after][0] - jump_ns < 0.2e9, "the recording covers the jump"
    # Other changes are noise of the camera, and differ by a few percent.
    assert changes[after - 1] > 3 * np.median(changes)
    assert graph.stop("world_model") == 0


def test_black_box_that_cannot_be_written_is_a_warning_only(ros_graph: Any, two_rooms_bundle: Path) -> None:
    graph = ros_graph
    (graph.folder / "file").write_text("")
    futures = graph.listen(PredictedFutures, "world_model/futures")
    diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
    graph.start(
        "world_model",
        {"bundle": two_rooms_bundle, "black_box_dir": graph.folder / "file" / "bags"},
        ("image:=camera/image_raw",),
    )
    graph.start("two_rooms", {"min_subscribers": 1})
    graph.until(
        lambda: any("black box:" in status.message for each in diagnostics for status in each.status),
        "a warning",
    )
    before = len(futures)
    graph.until(lambda: len(futures) > before + 30, "futures all the same")


def test_inactive_node_reports_its_state_instead_of_earlier_errors(ros_graph: Any, toy_bundle: Path) -> None:
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    camera, _ = served(ros_graph, toy_bundle, deadline_ms=1000.0)
    commands = ros_graph.publisher(Twist, "cmd_vel")

    def look() -> None:
        camera.publish(image())
        commands.publish(Twist())

    def message() -> str:
        return str(diagnostics[-1].status[0].message) if diagnostics else ""

    ros_graph.until(
        lambda: message().startswith("prediction error bounds are below"), "a toy's bounds", meanwhile=look
    )
    for transition, state in (
        (Transition.TRANSITION_DEACTIVATE, "not active"),
        (Transition.TRANSITION_CLEANUP, "not configured"),
    ):
        assert ros_graph.change_state("world_model", transition)
        diagnostics.clear()
        ros_graph.until(lambda: len(diagnostics) > 1, "diagnostics")
        assert message() == state


def calibration(*recent: CoverageRate) -> Calibration:
    return Calibration(0.9, np.full(len(recent), 0.25), recent, recent)


def test_coverage_below_target_is_a_warning_that_names_the_steps() -> None:
    (complaint,) = degradation_warnings(calibration(CoverageRate(270, 300), CoverageRate(150, 300)), None)
    assert "0.9 coverage at steps 2" in complaint
    assert with_warnings(Verdict(Level.OK, "running"), [complaint]).level is Level.WARN
    worse = Verdict(Level.ERROR, "stalled")
    assert with_warnings(worse, [complaint]) is worse
    engine, bounds = degradation_warnings(
        calibration(CoverageRate(150, 300)), None, ["openvino:NPU: no such device"]
    )
    assert "openvino:NPU: no such device" in engine and "at steps 1" in bounds
    assert (
        degradation_warnings(calibration(CoverageRate(270, 300)), None)
        == degradation_warnings(None, None)
        == []
    )


def test_black_box_without_alarms_is_a_warning() -> None:
    few = "9968 normal scores are too few"
    (complaint,) = degradation_warnings(None, Mock(fault=""), alarms_disabled_reason=few)
    assert complaint.startswith("black box: disabled") and few in complaint
    assert degradation_warnings(None, None, alarms_disabled_reason=few) == []


def test_diagnostics_contain_bounds_and_coverage() -> None:
    figures = calibration_values(calibration(CoverageRate(0, 0), CoverageRate(150, 200)))
    assert figures["error_bounds/step_1"] == "0.25, no errors observed yet"
    assert "coverage 0.750 over the last 200" in figures["error_bounds/step_2"]
