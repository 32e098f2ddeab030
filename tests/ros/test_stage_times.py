"""Stage times of the world_model node, and diagnostics of late results."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import LatentState, PredictedFutures, StageTimes
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from jepa_ros.world_model.stage_times import StageTimer
from sensor_msgs.msg import Image

from jepa_runtime.sources.base import Frame
from tests.ros.test_world_model import image, levels

pytestmark = pytest.mark.ros


class Publisher:
    """Record publications, with a given number of subscribers."""

    def __init__(self, subscribers: int) -> None:
        self.sent: list[StageTimes] = []
        self.subscribers = subscribers

    def get_subscription_count(self) -> int:
        return self.subscribers

    def publish(self, message: StageTimes) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("subscribers", [0, 1])
def test_stage_times_are_sent_only_to_subscribers(subscribers):
    publisher = Publisher(subscribers)
    clock = StageTimer({StageTimes: publisher})
    for stamp in (1, 2):
        clock.frame_arrived(stamp, time.time_ns())
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 2, "eye", 1)
    clock.fail(frame, ValueError("engine gone"))
    assert [(from_time(message.header.stamp), message.error) for message in publisher.sent] == [
        (2, "engine gone")
    ] * subscribers


def test_first_message_of_an_image_is_timed_and_later_ones_are_not():
    publishers = {StageTimes: Publisher(1), PredictedFutures: Publisher(1), LatentState: Publisher(1)}
    clock = StageTimer(publishers)
    result = SimpleNamespace(
        stamp_ns=7,
        frame_id="eye",
        futures=object(),
        timings_ms={"wait": 1.0, "encode": 2.0, "surprise": 3.0, "total": 4.0},
        device_ms={"encode": 1.5},
    )
    for _ in range(2):
        clock.frame_arrived(7, time.time_ns())
        clock.publish(PredictedFutures, lambda: time.sleep(0.02))
        clock.publish(LatentState, lambda: time.sleep(0.05))
        clock.finish(result)
    stage_times = publishers[StageTimes].sent
    assert len(stage_times) == 2 and len(publishers[LatentState].sent) == 2
    for message in stage_times:
        assert list(message.names) == ["decode", "wait", "encode", "message", "publish"]
        assert 20 <= message.milliseconds[3] < 50
        assert (list(message.device_names), list(message.device_milliseconds)) == (["encode"], [1.5])


def test_stage_times_carry_the_image_stamp_in_order(ros_graph, toy_bundle):
    times = ros_graph.listen(StageTimes, "world_model/stage_times")
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)
    ros_graph.until(lambda: times, "stage times", meanwhile=lambda: camera.publish(image()))
    sent = image()
    camera.publish(sent)
    ros_graph.until(lambda: times[-1].header == sent.header and futures[-1].header == sent.header, "both")
    last = times[-1]
    received, published = from_time(last.received), from_time(last.published)
    assert from_time(sent.header.stamp) < received < published < time.time_ns()
    assert last.names[0] == "decode" and last.names[-2:] == ["message", "publish"]
    assert 0 < sum(last.milliseconds) <= (published - received) / 1e6 + 0.05
    assert not last.error


def test_diagnostics_warn_over_the_budget_err_after_a_run_and_turn_stale_in_silence(ros_graph, toy_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    given = {"bundle": toy_bundle, "allow_untrained": True, "deadline_ms": 0.1, "max_miss_run": 100_000}
    ros_graph.start("world_model", given)
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)
    ros_graph.until(lambda: 1 in levels(diagnostics), "WARN", meanwhile=lambda: camera.publish(image()))
    assert 2 not in levels(diagnostics)
    assert ros_graph.set_parameter("world_model", "max_miss_run", 5) == ""
    ros_graph.until(lambda: 2 in levels(diagnostics), "ERROR", meanwhile=lambda: camera.publish(image()))
    ros_graph.until(lambda: 3 in levels(diagnostics[-1:]), "STALE")
