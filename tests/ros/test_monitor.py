"""The monitor receives, counts and records every topic."""

from __future__ import annotations

import time
from collections import Counter

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_msgs.msg import ModelInfo, PlannerStatus
from jepa_ros.common import qos
from jepa_ros.nodes.monitor import MonitorNode
from mcap.reader import make_reader
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros


def test_monitor_records_every_topic_unchanged(ros_graph, tmp_path):
    recording = tmp_path / "all.mcap"
    goals = ros_graph.observer.create_publisher(Image, "goal_image", qos.LATCHED)
    goals.publish(Image(encoding="latched before the monitor started"))
    ros_graph.start("monitor", {"mcap": recording, "view": "lines", "line_period_s": 0.5})
    statuses = ros_graph.publisher(PlannerStatus, "planner/status")
    for index in range(20):
        statuses.publish(PlannerStatus(energy=float(index)))
        ros_graph.spin_for(0.03)
    ros_graph.until(lambda: "end to end" in ros_graph.log("monitor").read_text(), "a line")
    assert ros_graph.stop("monitor") == 0
    kinds = {"/planner/status": PlannerStatus, "/goal_image": Image}
    recorded: dict[str, list] = {topic: [] for topic in kinds}
    with recording.open("rb") as file:
        for _, channel, message in make_reader(file).iter_messages(list(kinds)):
            recorded[channel.topic].append(deserialize_message(message.data, kinds[channel.topic]))
    assert [message.energy for message in recorded["/planner/status"]] == list(range(20))
    assert recorded["/goal_image"][0].encoding == "latched before the monitor started"
    assert ros_graph.report("monitor")["messages"]["/planner/status"] == 20


def test_monitor_records_large_messages_at_a_limited_rate(ros_graph, tmp_path):
    recording = tmp_path / "all.mcap"
    ros_graph.start("monitor", {"mcap": recording, "view": "none", "large_messages_hz": 2.0})
    images = ros_graph.publisher(Image, "image", qos.RESULT)
    statuses = ros_graph.publisher(PlannerStatus, "planner/status", qos.RESULT)
    began = time.monotonic()
    for _ in range(40):
        images.publish(Image(data=bytes(120_000)))
        statuses.publish(PlannerStatus())
        ros_graph.spin_for(0.05)
    elapsed_s = time.monotonic() - began
    assert ros_graph.stop("monitor") == 0
    with recording.open("rb") as file:
        topics = Counter(channel.topic for _, channel, _ in make_reader(file).iter_messages())
    assert topics["/planner/status"] == 40 == ros_graph.report("monitor")["messages"]["/image"]
    assert topics["/image"] == pytest.approx(2 * elapsed_s, abs=1.5)


def test_monitor_receives_a_later_publisher_with_another_qos(ros_graph):
    ros_graph.start("monitor", {"view": "none"})
    reliable = ros_graph.publisher(PlannerStatus, "planner/status", qos.LATCHED)
    reliable.publish(PlannerStatus())
    for profile in (qos.RESULT, qos.SENSOR):
        later = ros_graph.publisher(PlannerStatus, "planner/status", profile)
        for _ in range(5):
            later.publish(PlannerStatus())
            ros_graph.spin_for(0.03)
    assert ros_graph.stop("monitor") == 0
    report = ros_graph.report("monitor")
    assert report["messages"]["/planner/status"] == len(report["samples_ms"]["/planner/status"]) == 11


def test_monitor_records_before_the_ros_time_has_begun(ros_graph, tmp_path):
    recording = tmp_path / "all.mcap"
    ros_graph.start("monitor", {"use_sim_time": True, "mcap": recording, "line_period_s": 0.5})
    ros_graph.until(lambda: "idle" in ros_graph.log("monitor").read_text(), "a line")
    ros_graph.publisher(PlannerStatus, "planner/status").publish(PlannerStatus(state=PlannerStatus.SEEKING))
    ros_graph.until(lambda: "seeking" in ros_graph.log("monitor").read_text(), "what the planner says")
    assert ros_graph.stop("monitor") == 0
    with recording.open("rb") as file:
        assert len(list(make_reader(file).iter_messages(["/planner/status"]))) == 1


def test_monitor_records_unreadable_messages_and_continues(ros_graph, tmp_path):
    recording = tmp_path / "all.mcap"
    others = ros_graph.observer.create_publisher(ModelInfo, "other/world_model/model_info", qos.LATCHED)
    others.publish(serialize_message(ModelInfo())[:40])
    ros_graph.start("monitor", {"mcap": recording})
    goals = ros_graph.publisher(Image, "goal_image", qos.LATCHED)
    goals.publish(serialize_message(Image())[:8])
    statuses = ros_graph.publisher(PlannerStatus, "planner/status")
    ros_graph.until(lambda: "invalid message on topic " in ros_graph.log("monitor").read_text(), "a warning")
    statuses.publish(PlannerStatus())
    ros_graph.spin_for(0.5)
    assert ros_graph.stop("monitor") == 0
    with recording.open("rb") as file:
        lengths = {
            channel.topic: len(message.data) for _, channel, message in make_reader(file).iter_messages()
        }
    assert lengths["/goal_image"] == 8 and lengths["/other/world_model/model_info"] == 40
    assert "/planner/status" in lengths


@pytest.mark.parametrize("kind", ["/msg/Name", "std_msgs/msg/_string", "none_such/msg/Name"])
def test_monitor_continues_after_an_unknown_message_type(owner, kind):
    node = MonitorNode()
    node.subscribe("/strange", kind, qos.SENSOR)
    assert not [each for each in node.subscriptions if each.topic_name == "/strange"]
    node.stop()
    node.destroy_node()
