"""The other nodes, each in a separate process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import ActionCandidates, EpisodeResult, ModelInfo, PlannerStatus, PredictedFutures
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill, from_time, to_time
from jepa_ros.nodes.camera import CameraNode
from jepa_ros.nodes.world_model import WorldModelNode
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from jepa_runtime.errors import BackendError, DeviceLostError
from jepa_runtime.recording import messages
from jepa_runtime.sources.base import Frame
from tests.export.data.recordings import write_video
from tests.ros.graph import executable

pytestmark = pytest.mark.ros

HORIZON, SAMPLES = 4, 64


def model_info() -> ModelInfo:
    return ModelInfo(
        model_id="stub",
        horizon=HORIZON,
        num_samples=SAMPLES,
        step_s=0.2,
        tokens=1,
        dim=2,
        history_size=1,
        action_names=["linear.x", "linear.y"],
        action_units=["m/s", "m/s"],
        action_low=[-1.0, -1.0],
        action_high=[1.0, 1.0],
        action_max_norm=1.0,
        goal_threshold=1.0,
    )


def futures(stamp_ns: int, question: ActionCandidates | None, energy: float = 10.0) -> PredictedFutures:
    message = PredictedFutures(has_goal=True, current_energy=energy, candidates_source="fan")
    message.header.stamp = to_time(stamp_ns)
    message.goal_stamp = to_time(5)
    energies = np.ones((SAMPLES, HORIZON), np.float32)
    if question is not None:
        message.candidates_source, message.candidates_stamp = question.source, question.header.stamp
        message.actions = question.actions
        # Motion to the right lowers the energy.
        energies = -np.cumsum(messages.array_of(question.actions)[..., 0], axis=1)
    return fill(message, {"energies": messages.tensor("energies", energies.astype(np.float32))})


@pytest.fixture
def planner(ros_graph):
    """Start a planner with a stub model; return graph, candidates, commands and a response function."""
    questions = ros_graph.listen(ActionCandidates, "world_model/candidates")
    commands = ros_graph.listen(Twist, "cmd_vel")
    ros_graph.start("planner")
    ros_graph.publisher(ModelInfo, "world_model/model_info", qos.LATCHED).publish(model_info())
    ros_graph.until(lambda: commands == [Twist()], "a stop command")
    sender = ros_graph.publisher(PredictedFutures, "world_model/futures")

    def answer(energy: float = 10.0) -> None:
        sender.publish(futures(time.time_ns(), questions[-1] if questions else None, energy))
        ros_graph.spin_for(0.03)

    return ros_graph, questions, commands, answer


def test_planner_learns_from_futures_and_stops_when_they_end(planner):
    graph, questions, commands, answer = planner

    def has_driven_right() -> bool:
        rights = [command.linear.x > 0.3 for command in commands]
        return any(all(rights[start : start + 4]) for start in range(len(rights) - 3))

    graph.until(has_driven_right, "commands to the right, where energies are lower", meanwhile=answer)
    assert questions
    graph.until(lambda: commands[-1] == Twist(), "a stop command", timeout_s=2.0)
    assert graph.stop("planner") == 0
    assert graph.report("planner")["counters"]["watchdog_stops"] == 1


def test_planner_with_other_actions_publishes_only_on_their_topics(planner):
    graph, _, commands, answer = planner
    graph.until(lambda: commands[-1] != Twist(), "commands", meanwhile=answer)
    models, info = graph.publisher(ModelInfo, "world_model/model_info", qos.LATCHED), model_info()
    for step_s, names, unit, count in ((0.1, ["linear.x", "linear.y"], "m/s", 1), (0.2, ["x", "y"], "m", 0)):
        info.step_s, info.action_names, info.action_units = step_s, names, [unit, unit]
        models.publish(info)
        commands.clear()
        graph.until(lambda: Twist() in commands, "a stop command of the old publisher")
        graph.until(
            lambda count=count: graph.observer.count_publishers("cmd_vel") == count, "the topic's publishers"
        )
        # The old one may still be counted while the new one has not matched its subscribers.
        graph.spin_for(0.5)
    assert graph.observer.count_publishers("pose_delta") == 1


def test_other_publisher_of_commands_is_reported_even_while_stopped(ros_graph):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    ros_graph.start("planner", remaps=("cmd_vel:=cmd_vel_raw",))
    ros_graph.publisher(ModelInfo, "world_model/model_info", qos.LATCHED).publish(model_info())
    statuses = lambda: [status for message in diagnostics for status in message.status]  # noqa: E731
    ros_graph.until(lambda: any("no futures" in status.message for status in statuses()), "that it stands")
    assert not any("cmd_vel_raw" in status.message for status in statuses())
    joystick = ros_graph.publisher(Twist, "cmd_vel_raw", listeners=0)
    warning = "/cmd_vel_raw has 2 publishers"
    ros_graph.until(
        lambda: all(words in statuses()[-1].message for words in (warning, "no futures")), warning
    )
    ros_graph.observer.destroy_publisher(joystick)
    ros_graph.until(lambda: "cmd_vel_raw" not in statuses()[-1].message, "a single publisher")


def test_report_that_cannot_be_written_is_reported_in_a_line_at_the_start(ros_graph):
    ros_graph.start("planner", {"report_path": "/dev/null/planner.json"})
    assert ros_graph.exit_code("planner") == 1
    lines = ros_graph.log("planner").read_text(encoding="utf-8").splitlines()
    # Kilted warns about the variable that Jazzy uses for the DDS profile.
    (reported,) = [line for line in lines if "rmw_fastrtps" not in line]
    assert reported.startswith("error: /dev/null/planner.json: cannot be written")


def test_report_that_can_no_longer_be_written_is_reported_in_a_line(ros_graph, tmp_path):
    report = tmp_path / "reports" / "planner.json"
    ros_graph.start("planner", {"report_path": report})
    ros_graph.until(lambda: "planner" in ros_graph.observer.get_node_names(), "the planner")
    report.parent.rmdir()
    report.parent.touch()
    assert ros_graph.stop("planner") == 1
    log = ros_graph.log("planner").read_text(encoding="utf-8")
    assert f"error: {report}: cannot be written" in log and "Traceback" not in log


def test_planner_stops_at_the_goal_and_reports_it(planner):
    graph, _, commands, answer = planner
    status = graph.listen(PlannerStatus, "planner/status")
    graph.until(lambda: commands[-1] != Twist(), "commands", meanwhile=answer)
    graph.until(
        lambda: status and status[-1].state == PlannerStatus.REACHED, "REACHED", meanwhile=lambda: answer(0.5)
    )
    graph.until(lambda: commands[-1] == Twist(), "a stop command")


def test_old_futures_do_not_move_the_robot(planner):
    graph, _, commands, answer = planner
    graph.until(lambda: commands[-1] != Twist(), "commands", meanwhile=answer)
    sender = graph.publisher(PredictedFutures, "world_model/futures")
    sender.publish(futures(time.time_ns() - 3_000_000_000, None))
    graph.until(lambda: commands[-1] == Twist(), "a stop command", timeout_s=0.4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_planner_ends_with_a_stop(planner, number):
    graph, _, commands, answer = planner
    graph.until(lambda: commands[-1] != Twist(), "commands", meanwhile=answer)
    assert graph.stop("planner", number) == 0
    graph.until(lambda: commands[-1] == Twist(), "a stop command")


def test_node_under_nohup_outlives_its_terminal():
    code = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code += "from jepa_ros.start import handle_termination_signals; "
    code += "handle_termination_signals(lambda *_: os._exit(1)); "
    code += "os.kill(os.getpid(), signal.SIGHUP); print('lives')"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"lives\n"


def test_planner_detects_silence_while_ros_time_stands_still(ros_graph):
    commands = ros_graph.listen(Twist, "cmd_vel")
    questions = ros_graph.listen(ActionCandidates, "world_model/candidates")
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    clock = ros_graph.observer.create_publisher(Clock, "/clock", 1)
    ros_graph.start("planner", {"use_sim_time": True})
    ros_graph.publisher(ModelInfo, "world_model/model_info", qos.LATCHED).publish(model_info())
    sender = ros_graph.publisher(PredictedFutures, "world_model/futures")

    def answer():
        now_ns = time.time_ns()
        clock.publish(Clock(clock=to_time(now_ns)))
        sender.publish(futures(now_ns, questions[-1] if questions else None))

    ros_graph.until(lambda: commands and commands[-1] != Twist(), "commands", meanwhile=answer)
    diagnostics.clear()
    ros_graph.until(lambda: commands[-1] == Twist(), "a stop command", timeout_s=2.0)
    ros_graph.until(
        lambda: diagnostics and "no futures" in diagnostics[-1].status[0].message, "the reason", timeout_s=2.0
    )


def test_planner_with_an_invalid_camera_topic_exits_with_the_reason(ros_graph):
    ros_graph.start("planner", {"camera": "/front/image_raw"})
    assert ros_graph.exit_code("planner") == 1
    assert "parameter camera: '/front/image_raw' is not a relative" in ros_graph.log("planner").read_text()


def test_planner_drives_by_the_configured_camera(ros_graph):
    ros_graph.start("planner", {"camera": "front/image_raw"})
    for topic in ("futures", "surprise"):
        ros_graph.until(
            lambda topic=topic: ros_graph.observer.count_subscribers(f"/world_model/front/image_raw/{topic}"),
            f"a subscriber of its {topic}",
        )
    assert not ros_graph.observer.count_subscribers("/world_model/futures")


@pytest.fixture
def robot(ros_graph):
    """Start a robot; return the graph, its images and its goal."""
    images = ros_graph.listen(Image, "camera/image_raw", qos.SENSOR)
    goals = ros_graph.listen(Image, "goal_image", qos.LATCHED)
    ros_graph.start("two_rooms", {"episode_timeout_s": 1.0, "min_subscribers": 1})
    ros_graph.until(lambda: len(images) > 2 and goals, "images and a goal")
    return ros_graph, images, goals


def test_simulated_robot_moves_only_while_it_is_commanded(robot):
    graph, images, _ = robot
    wheel = graph.publisher(Twist, "cmd_vel")
    command = Twist()
    command.linear.x, command.linear.y = 0.8, 0.8

    def change(count: int) -> float:
        """Return the difference of the newest image from an earlier one, without noise and light."""
        newest, older = (
            np.frombuffer(images[index].data, np.uint8).astype(float) for index in (-1, -1 - count)
        )
        return float((np.abs(newest - older) > 40).mean())

    begun = len(images)
    graph.until(
        lambda: len(images) > begun + 12, "images while driving", meanwhile=lambda: wheel.publish(command)
    )
    assert change(12) > 0.003
    assert images[-1].encoding == "rgb8" and images[-1].header.frame_id == "camera"


def test_episode_ends_after_its_time_and_a_new_goal_follows(robot):
    graph, images, goals = robot
    results = graph.listen(EpisodeResult, "episode")
    graph.until(lambda: results and len(goals) > 1, "the end of an episode")
    ended = results[0].header
    graph.until(lambda: from_time(images[-1].header.stamp) > from_time(ended.stamp), "the next episode")
    headers = [image.header for image in images]
    after = {header.frame_id for header in headers if from_time(header.stamp) > from_time(ended.stamp)}
    assert after == {goals[1].header.frame_id} and ended.frame_id not in after
    assert results[0].outcome == "timeout" and not results[0].reached
    assert results[0].distance_m > 0


def test_goal_claimed_elsewhere_does_not_count(robot):
    graph, _, goals = robot
    results = graph.listen(EpisodeResult, "episode")
    claims = graph.publisher(PlannerStatus, "planner/status")
    claim = PlannerStatus(state=PlannerStatus.REACHED)

    def send() -> None:
        claim.goal_stamp = goals[-1].header.stamp
        claims.publish(claim)

    graph.until(
        lambda: any(result.outcome == "wrong_place" for result in results), "wrong_place", meanwhile=send
    )
    assert graph.stop("two_rooms") == 0
    assert graph.report("two_rooms")["successes"] == 0


def test_simulated_robot_exits_after_its_time(ros_graph):
    ros_graph.start("two_rooms", {"duration_s": 0.5})
    assert ros_graph.exit_code("two_rooms") == 0
    assert ros_graph.report("two_rooms")["frames_published"] == 15


def test_folder_of_images_is_played_as_a_camera(ros_graph, tmp_path):
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index:03}.png"), np.full((8, 10, 3), index * 50, np.uint8))
    images = ros_graph.listen(Image, "camera/image_raw", qos.SENSOR)
    ros_graph.start("camera", {"source": folder, "rate_hz": 20.0, "loop": True, "frame_id": "eye"})
    ros_graph.until(lambda: len(images) > 6, "images, more than the folder has")
    assert {(image.height, image.width) for image in images} == {(8, 10)}
    for earlier, later in pairwise(images[:7]):
        begins, views = later.data[0] < earlier.data[0], {earlier.header.frame_id, later.header.frame_id}
        assert begins == (len(views) == 2), "each pass announces its beginning"
    assert all(re.fullmatch(r"eye(#\d+)?", image.header.frame_id) for image in images)
    assert abs(time.time_ns() - from_time(images[-1].header.stamp)) < 5e9
    assert ros_graph.stop("camera", signal.SIGTERM) == 0


def test_video_that_starts_again_is_another_view(ros_graph, tmp_path):
    path = write_video(tmp_path / "film.ts", range(12))
    path.write_bytes(path.read_bytes() * 2)
    images = ros_graph.listen(Image, "camera/image_raw", qos.SENSOR)
    ros_graph.start("camera", {"source": path, "loop": True})
    ros_graph.until(lambda: len(images) > 24, "images, more than both parts have")
    assert {"camera#2", "camera#3"} <= {image.header.frame_id for image in images}
    assert ros_graph.stop("camera", signal.SIGTERM) == 0


def test_missing_camera_is_an_error_with_the_reason(ros_graph):
    ros_graph.start("camera", {"source": "/dev/video97"})
    assert ros_graph.exit_code("camera") == 1
    assert "/dev/video97" in ros_graph.log("camera").read_text()


@pytest.mark.parametrize(("clock_ns", "stamp_ns"), [(7_000_000_000, 6_000_000_000), (0, 0)])
def test_live_images_carry_the_ros_time_of_their_capture(owner, monkeypatch, clock_ns, stamp_ns):
    device = Mock(frames=lambda: iter(()))
    monkeypatch.setattr("jepa_ros.nodes.camera.open_source", lambda *_, **__: device)
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000_000)
    create_publisher = CameraNode.create_publisher
    images = Mock()
    monkeypatch.setattr(
        CameraNode,
        "create_publisher",
        lambda self, kind, *given, **options: (
            images if kind is Image else create_publisher(self, kind, *given, **options)
        ),
    )
    node = CameraNode()
    monkeypatch.setattr(node, "get_clock", lambda: Mock(now=lambda: Mock(nanoseconds=clock_ns)))
    node.publish(Frame(np.zeros((8, 8, 3), np.uint8), 4_000_000_000, "eye", 0), live=True)
    published = images.publish.call_args.args[0]
    assert from_time(published.header.stamp) == stamp_ns
    node.stop()
    node.destroy_node()


def test_model_that_lost_its_device_ends_its_node(owner):
    node = WorldModelNode()
    node.on_inference_error(BackendError("a frame failed"), None)
    assert not node.finished.is_set()
    node.on_inference_error(DeviceLostError("the GPU failed"), None)
    assert node.finished.is_set() and node.failure == "the GPU failed"
    node.stop()
    node.destroy_node()


def test_invalid_parameters_of_every_node_are_rejected(ros_graph):
    ros_graph.start("planner", {"futures_timeout_s": 0.3})
    assert "range" in ros_graph.set_parameter("planner", "futures_timeout_s", 0.0)
    assert "read-only" in ros_graph.set_parameter("planner", "topk", 4)
    assert ros_graph.set_parameter("planner", "futures_timeout_s", 0.4) == ""


def test_unknown_ros_arguments_are_reported_in_a_line(ros_graph):
    command = [executable("planner"), "--ros-args", "--params-file", str(ros_graph.folder / "none.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("error: ROS 2 failed to start: ") and "none.yaml" in line
    assert ended.returncode == 1 and "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_imports_ends_the_node_cleanly(number):
    reading = f"lambda name: os.kill(os.getpid(), {int(number)})"
    code = f"import importlib, os; from jepa_ros import start; importlib.import_module = {reading}; "
    ended = subprocess.run([sys.executable, "-c", code + "start.planner()"], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
