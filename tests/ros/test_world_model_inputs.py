"""Unusual inputs of the world_model node from drivers, goals and models."""

from __future__ import annotations

import math
import shutil
import signal
import time
from itertools import cycle
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.srv import SetGoal
from jepa_ros.common import qos
from jepa_ros.nodes.world_model import WorldModelNode
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import CompressedImage, Image

from jepa_runtime.bundle import Bundle, seal
from tests.bundles import make_bundle
from tests.ros.test_world_model import image, served

pytestmark = pytest.mark.ros


def test_image_sent_raw_and_compressed_is_served_once(ros_graph, toy_bundle):
    raw, futures = served(ros_graph, toy_bundle)
    compressed = ros_graph.publisher(CompressedImage, "image/compressed", qos.SENSOR)

    def send():
        message = image()
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        raw.publish(message)
        data = cv2.imencode(".jpg", pixels)[1].tobytes()
        compressed.publish(CompressedImage(header=message.header, format="jpeg", data=data))

    ros_graph.until(lambda: len(futures) > 20, "futures", meanwhile=send)
    stamps = [(message.header.stamp.sec, message.header.stamp.nanosec) for message in futures]
    assert len(set(stamps)) == len(stamps)


def test_old_goal_image_does_not_return_with_the_next_activation(ros_graph, toy_bundle):
    camera, futures = served(ros_graph, toy_bundle)
    send = {"meanwhile": lambda: camera.publish(image())}
    for sec in (44, 55):
        goals = ros_graph.publisher(Image, "goal_image", qos.LATCHED)
        goals.publish(image(stamp_ns=sec * 10**9))
        ros_graph.until(
            lambda sec=sec: futures and futures[-1].goal_stamp.sec == sec, "futures with a goal", **send
        )
    assert not futures[-1].goal_requested
    request = SetGoal.Request(stamp=Time(sec=66), image=image())
    assert ros_graph.call(SetGoal, "world_model/set_goal", request).success
    ros_graph.until(lambda: futures[-1].goal_stamp.sec == 66, "futures with the other goal", **send)
    assert futures[-1].goal_requested
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        assert ros_graph.change_state("world_model", transition)
    futures.clear()
    ros_graph.until(lambda: len(futures) > 10, "futures again", **send)
    assert {message.goal_stamp.sec for message in futures} == {66}


@pytest.mark.slow
def test_images_while_the_model_is_closed_do_not_end_the_node(ros_graph, toy_bundle):
    camera, futures = served(ros_graph, toy_bundle)
    commands = ros_graph.publisher(Twist, "cmd_vel")
    client = ros_graph.observer.create_client(ChangeState, "world_model/change_state")
    node = ros_graph.processes["world_model"]

    def ask(*transitions):
        return [
            client.call_async(ChangeState.Request(transition=Transition(id=each))) for each in transitions
        ]

    for _ in range(4):
        futures.clear()
        ros_graph.until(lambda: futures, "futures", meanwhile=lambda: camera.publish(image()))
        # They wait together, as if the node was overloaded.
        node.send_signal(signal.SIGSTOP)
        answers = ask(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        for _ in range(5):
            camera.publish(image())
            commands.publish(Twist())
        node.send_signal(signal.SIGCONT)
        ros_graph.until(lambda answers=answers: all(each.done() for each in answers), "the model closed")
        answers = ask(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        ros_graph.until(lambda answers=answers: all(each.done() for each in answers), "another model")
    assert ros_graph.stop("world_model") == 0


@pytest.mark.slow
def test_images_that_cannot_be_matched_to_commands_are_reported(ros_graph, toy_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    # Warnings about a toy model's surprise and bounds on noise are irrelevant here.
    camera, _ = served(ros_graph, toy_bundle, error_probability=0.5)
    commands = ros_graph.publisher(Twist, "cmd_vel")

    def until_reported(words, *offsets_s, commanded=True):
        diagnostics.clear()
        offsets_ns = cycle(round(offset_s * 1e9) for offset_s in offsets_s)

        def look():
            camera.publish(image(time.time_ns() + next(offsets_ns)))
            if commanded:
                commands.publish(Twist())

        def is_reported():
            return any(words in status.message for message in diagnostics for status in message.status)

        ros_graph.until(is_reported, words, meanwhile=look)

    until_reported("no surprise for", 0.0, commanded=False)
    until_reported("running", 0.0)
    until_reported("s behind this node's clock", -60.0)
    until_reported("s ahead of this node's clock", 60.0)
    # Two drivers that publish on one topic.
    until_reported("no surprise for", 0.0, -0.9)


def test_non_finite_commands_are_reported(ros_graph, toy_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    camera, _ = served(ros_graph, toy_bundle)
    commands, broken = ros_graph.publisher(Twist, "cmd_vel"), Twist()
    broken.linear.x = math.nan

    def look():
        camera.publish(image())
        commands.publish(broken)

    def is_reported():
        return any("2 finite numbers, got [nan, 0.0]" in each.status[0].message for each in diagnostics)

    ros_graph.until(is_reported, "a warning", meanwhile=look)


def test_other_publishers_of_images_and_results_are_reported(ros_graph, toy_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    # Images without surprise, since there are no commands, cause a warning too.
    camera, _ = served(ros_graph, toy_bundle, stale_after_s=0.3)

    def until_reported(*words):
        def is_reported():
            return diagnostics and all(each in diagnostics[-1].status[0].message for each in words)

        ros_graph.until(is_reported, " and ".join(words), meanwhile=lambda: camera.publish(image()))

    until_reported("no surprise for")
    driver = ros_graph.observer.create_publisher(Image, "image", qos.SENSOR)
    until_reported("/image has 2 publishers", "no surprise for")
    ros_graph.observer.destroy_publisher(driver)
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True}, called="twin")
    until_reported("/world_model/latent has 2 publishers", "no surprise for")


def test_executed_actions_follow_ros_time(owner, monkeypatch):
    node = WorldModelNode()
    served, action = Mock(), np.array([0.5, -1.0], np.float32)
    with monkeypatch.context() as patched:
        patched.setattr(node, "get_clock", lambda: Mock(now=lambda: Mock(nanoseconds=7)))
        patched.setattr(node, "session", served)
        node.on_action(action)
    served.add_action.assert_called_once_with(7, action)
    node.stop()
    node.destroy_node()


def test_model_with_a_longer_context_learns_from_the_planner_that_the_robot_stands(ros_graph, tmp_path):
    make_bundle(tmp_path / "history", history_size=2)
    ros_graph.start("planner")
    camera, futures = served(ros_graph, tmp_path / "history")
    ros_graph.until(lambda: futures, "futures of an image", meanwhile=lambda: camera.publish(image()))


def test_model_with_unsupported_actions_is_rejected_with_their_names(ros_graph, toy_bundle, tmp_path):
    arm = Path(shutil.copytree(toy_bundle, tmp_path / "arm"))
    fields = Bundle.open(arm).manifest.model_dump(mode="json")
    fields["io"]["action"]["names"] = ["shoulder", "elbow"]
    seal(arm, fields)
    ros_graph.start("world_model", {"bundle": arm, "allow_untrained": True, "autostart": False})
    assert not ros_graph.change_state("world_model", Transition.TRANSITION_CONFIGURE)
    assert ros_graph.state("world_model") == "unconfigured"
    log = ros_graph.log("world_model").read_text(encoding="utf-8")
    assert f"configure failed: {arm}: action names ['shoulder', 'elbow']" in log and "Traceback" not in log
    assert ros_graph.set_parameter("world_model", "bundle", str(toy_bundle)) == ""
    assert ros_graph.change_state("world_model", Transition.TRANSITION_CONFIGURE)


def test_model_without_actions_is_served(ros_graph, toy_bundle, tmp_path):
    still = Path(shutil.copytree(toy_bundle, tmp_path / "still"))
    fields = Bundle.open(still).manifest.model_dump(mode="json")
    fields["io"]["action"] |= {"names": ["none", "nothing"], "low": [0.0, 0.0], "high": [0.0, 0.0]}
    seal(still, fields)
    camera, futures = served(ros_graph, still)
    ros_graph.until(lambda: futures, "futures of an image", meanwhile=lambda: camera.publish(image()))
