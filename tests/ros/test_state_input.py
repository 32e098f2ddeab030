"""The measured state of the robot in the world_model and planner nodes, with a bundle of random weights."""

from __future__ import annotations

import math
import time
from contextlib import closing
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from jepa_msgs.msg import ActionCandidates, CriticVerdict, LatentState, PredictedFutures
from jepa_ros.common import qos
from jepa_ros.common.action_commands import quaternion_from_euler
from jepa_ros.common.conversions import fill, from_time, to_image, to_time
from jepa_ros.world_model.parameters import PARAMETERS
from jepa_ros.world_model.state_input import StateInput
from rclpy.clock import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64

from jepa_runtime import WorldModel
from jepa_runtime.bundle.manifest import StateSpec
from jepa_runtime.recording import messages
from tests.bundles import ARM_LIMITS, ARM_NAMES, ARM_UNITS, DIM, SIZE, TOKENS
from tests.ros.test_world_model import image

pytestmark = pytest.mark.ros

# 0.04 m apart is an open gripper, which the model reads as 0.
GRIPPER = {"gripper_joint": "finger", "gripper_open": 0.04, "gripper_closed": 0.0}
STATE = np.array([0.4, 0.1, 0.3, 0.2, -0.3, 0.5, 0.25], np.float32)


def pose(stamp_ns: int, x: float = 0.4) -> PoseStamped:
    message = PoseStamped()
    message.header.stamp = to_time(stamp_ns)
    position = message.pose.position
    position.x, position.y, position.z = x, 0.1, 0.3
    message.pose.orientation = quaternion_from_euler(0.2, -0.3, 0.5)
    return message


def fingers(stamp_ns: int) -> JointState:
    message = JointState(name=["wrist", "finger"], position=[1.0, 0.03])
    message.header.stamp = to_time(stamp_ns)
    return message


class Arm:
    """An arm with a camera, whose pose and gripper are measured at each image."""

    def __init__(self, graph, bundle, **parameters) -> None:
        self.graph = graph
        self.futures = graph.listen(PredictedFutures, "world_model/futures")
        self.latents = graph.listen(LatentState, "world_model/latent")
        self.diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
        settings = {"bundle": bundle, "allow_untrained": True, "futures_dtype": "float32"}
        graph.start("world_model", settings | GRIPPER | parameters)
        self.camera = graph.publisher(Image, "image", qos.SENSOR)
        self.poses = graph.publisher(PoseStamped, "pose")
        self.grippers = graph.publisher(JointState, "gripper_state")
        self.images: dict[int, Image] = {}
        # Time from the measurement of the pose to the image; None: no pose.
        self.behind_ns: int | None = 0
        self.x = 0.4

    def look(self) -> None:
        stamp_ns = time.time_ns()
        self.grippers.publish(fingers(stamp_ns))
        if self.behind_ns is not None:
            self.poses.publish(pose(stamp_ns - self.behind_ns, self.x))
        self.graph.spin_for(0.01)
        self.images[stamp_ns] = image(stamp_ns, size=(32, 32))
        self.camera.publish(self.images[stamp_ns])

    def until(self, condition, what: str) -> None:
        self.graph.until(condition, what, meanwhile=self.look)

    def until_error(self, words: str) -> None:
        """Wait for an error with these words, after which no image has futures."""
        self.diagnostics.clear()
        self.until(lambda: self._has_error(words), f"the error {words}")
        self.futures.clear()
        seen = len(self.latents)
        self.until(lambda: len(self.latents) > seen + 10, "latents without futures")
        assert not self.futures

    def recovers(self) -> None:
        self.futures.clear()
        self.until(lambda: len(self.futures) > 5, "futures again")
        self.diagnostics.clear()
        self.until(lambda: self.diagnostics and not self._has_error("no futures"), "no error")

    def _has_error(self, words: str) -> bool:
        return any(
            status.level[0] >= 2 and words in status.message
            for message in self.diagnostics
            for status in message.status
        )


def test_futures_start_from_the_state_at_the_image(ros_graph, arm_bundle):
    arm = Arm(ros_graph, arm_bundle)
    arm.until(lambda: len(arm.futures) > 10, "futures")
    message = arm.futures[-1]
    shown = arm.images[from_time(message.header.stamp)]
    pixels = np.frombuffer(shown.data, np.uint8).reshape(32, 32, 3)
    with WorldModel.open(arm_bundle, allow_untrained=True) as model:
        latent = model.encode(pixels)
        actions = messages.array_of(message.actions)
        expected, elsewhere = (
            model.predict(actions, latents=latent, history_states=state[None]).latents
            for state in (STATE, STATE * 0)
        )
    np.testing.assert_allclose(messages.array_of(message.latents), expected, atol=1e-5)
    assert np.abs(expected - elsewhere).max() > 1e-2


def test_states_that_cannot_be_used_withhold_the_futures(ros_graph, arm_bundle):
    arm = Arm(ros_graph, arm_bundle)
    arm.behind_ns = None
    arm.until_error("no state of the robot on pose")
    arm.behind_ns = 0
    arm.recovers()
    arm.x = math.nan
    arm.until_error("must be finite")
    arm.x = 0.4
    arm.recovers()
    arm.behind_ns = 100_000_000
    arm.until_error("s before the image (limit: 0.025 s)")
    arm.behind_ns = 0
    arm.recovers()
    arm.behind_ns = None
    arm.until_error("s before the image")
    arm.behind_ns = -100_000_000
    arm.until_error("s ahead of this node's clock")
    arm.behind_ns = 0
    arm.recovers()
    other = ros_graph.publisher(PoseStamped, "pose")
    arm.until_error("/pose has 2 publishers")
    ros_graph.observer.destroy_publisher(other)
    arm.recovers()


def test_planner_moves_the_arm_within_the_limits_of_the_model(ros_graph, arm_bundle):
    arm = Arm(ros_graph, arm_bundle)
    deltas = ros_graph.listen(PoseStamped, "pose_delta")
    grippers = ros_graph.listen(Float64, "gripper_delta")
    candidates = ros_graph.listen(ActionCandidates, "world_model/candidates")
    # Images of noise do not show a motion.
    disabled = {"frozen_after_s": 0.0, "surprise_ratio": 1.0, "stuck_after_s": 3600.0}
    ros_graph.start("planner", {**disabled, "futures_timeout_s": 2.0})
    goals = ros_graph.publisher(Image, "goal_image", qos.LATCHED)
    shown = image(5 * 10**9, size=(32, 32))
    goals.publish(shown)

    def moved() -> list[PoseStamped]:
        return [each for each in deltas if each.pose.position.x or each.pose.position.y]

    arm.until(lambda: len(moved()) > 3, "pose deltas")
    limits = np.array(ARM_LIMITS, np.float32) + 1e-6
    for message in candidates:
        assert (np.abs(messages.array_of(message.actions)) <= limits).all()
    for message in moved():
        place = message.pose.position
        assert max(abs(place.x), abs(place.y), abs(place.z)) <= limits[0]
        assert message.pose.orientation.w == pytest.approx(1.0), "the gripper is not rotated"
    assert grippers and max(abs(each.data) for each in grippers) <= limits[-1]
    # The energy is the mean absolute difference of each future to the goal.
    with WorldModel.open(arm_bundle, allow_untrained=True) as model:
        goal = model.encode(np.frombuffer(shown.data, np.uint8).reshape(32, 32, 3))
    message = arm.futures[-1]
    expected = np.abs(messages.array_of(message.latents) - goal).mean(axis=(-2, -1))
    np.testing.assert_allclose(messages.array_of(message.energies), expected, atol=1e-5)
    # Without the pose there are no futures, and the planner stops the arm.
    arm.behind_ns = None
    arm.until_error("s before the image")
    deltas.clear()
    arm.until(lambda: len(arm.latents) and not ros_graph.spin_for(0.5), "half a second")
    assert not moved()


def test_policy_moves_the_arm_behind_the_critic(ros_graph, arm_bundle):
    arm = Arm(ros_graph, arm_bundle)
    deltas = ros_graph.listen(PoseStamped, "pose_delta")
    verdicts = ros_graph.listen(CriticVerdict, "planner/verdict")
    disabled = {"frozen_after_s": 0.0, "surprise_ratio": 1.0, "stuck_after_s": 3600.0}
    policy = {"search_method": "policy", "futures_timeout_s": 2.0, "policy_timeout_s": 10.0}
    ros_graph.start("planner", disabled | policy)
    ros_graph.publisher(Image, "goal_image", qos.LATCHED).publish(image(5 * 10**9, size=(32, 32)))
    offers = ros_graph.publisher(ActionCandidates, "planner/policy_candidates")
    chunk = np.zeros((1, 2, 7), np.float32)
    chunk[..., 0] = 0.03
    offer = fill(ActionCandidates(source="policy"), {"actions": messages.tensor("actions", chunk)})

    def accepted() -> list[CriticVerdict]:
        offer.header.stamp = to_time(time.time_ns())
        offers.publish(offer)
        return [each for each in verdicts if each.response == CriticVerdict.ACCEPT]

    arm.until(lambda: len(accepted()) > 1, "verdicts")
    assert accepted()[0].warming_up and np.isfinite(accepted()[0].score)
    arm.until(lambda: any(each.pose.position.x > 0.02 for each in deltas), "commands of the policy")
    assert max(each.pose.position.x for each in deltas) == pytest.approx(0.03)
    # Without the pose nothing is judged, and the arm rests.
    arm.behind_ns = None
    arm.until_error("s before the image")
    deltas.clear()
    seen = len(accepted())
    ros_graph.spin_for(1.0)
    assert len(accepted()) == seen and not any(each.pose.position.x for each in deltas)


class PredictedArm(Arm):
    """An arm that moves as the model predicts of its commands, with an image per step; its camera shows that.

    Attributes:
        driver_hangs: The last pose is published again, with new stamps.
        held: The arm does not move, whatever is commanded.
    """

    def __init__(self, graph, bundle, **parameters) -> None:
        super().__init__(graph, bundle, **parameters)
        self.commands = graph.publisher(PoseStamped, "pose_delta")
        encoder = onnx.load(bundle / "encoder" / "onnx" / "model.onnx").graph
        weights = {each.name: numpy_helper.to_array(each) for each in encoder.initializer}["weights"]
        self._inverse = np.linalg.pinv(weights)
        self._latent = np.random.default_rng(0).uniform(-0.9, 0.9, (TOKENS, DIM)).astype(np.float32)
        self._model = WorldModel.open(bundle, allow_untrained=True)
        self._steps, self._next_s = 0, time.monotonic()
        self.driver_hangs = self.held = False

    def look(self) -> None:
        """Publish the pose and the image, and command the next step."""
        self.graph.spin_for(max(0.0, self._next_s - time.monotonic()))
        self._next_s += 0.2
        stamp_ns = time.time_ns()
        self.grippers.publish(fingers(stamp_ns))
        self.poses.publish(pose(stamp_ns, self.x))
        self.graph.spin_for(0.01)
        spread = np.arctanh(np.clip(self._latent.ravel(), -0.999, 0.999)) @ self._inverse
        shown = np.clip(np.round(127.5 + 63.75 * spread), 0, 255).astype(np.uint8).reshape(SIZE, SIZE, 3)
        self.camera.publish(to_image(shown, stamp_ns=stamp_ns, frame_id="camera"))
        self._steps += 1
        action = np.array([1, 1, -1, 0, 0, 0, 0], np.float32) * 0.05 * (-1) ** self._steps
        command = PoseStamped()
        position = command.pose.position
        position.x, position.y, position.z = map(float, action[:3])
        self.commands.publish(command)
        if self.held:
            return
        state = np.array([self.x, *STATE[1:]], np.float32)
        self._latent = self._model.predict(
            action[None, None], latents=self._latent, history_states=state[None]
        ).latents[0, 0]
        if not self.driver_hangs:
            self.x += float(action[0])

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.look()

    def close(self) -> None:
        self._model.close()


def test_driver_that_repeats_a_pose_is_reported_and_a_held_arm_is_not(ros_graph, arm_bundle):
    with closing(PredictedArm(ros_graph, arm_bundle)) as arm:
        # A command that is in force at the first image.
        arm.until(lambda: len(arm.futures) > 8, "futures")
        assert not arm._has_error("has not changed")
        arm.driver_hangs = True
        arm.until_error("while images show the commanded motion")
        arm.driver_hangs = False
        arm.recovers()
        arm.held = True
        arm.diagnostics.clear()
        arm.steps(20)
        assert arm.diagnostics and not arm._has_error("no futures")
        arm.futures.clear()
        arm.steps(3)
        assert arm.futures


class _Node:
    """The part of a node that the input uses."""

    def get_logger(self):
        return self

    def get_clock(self):
        return Clock()

    def error(self, *_, **__) -> None:
        """Log nothing."""

    def create_subscription(self, kind, topic, callback, qos):
        return kind, topic, callback


def create(spec: StateSpec, frozen=None, **changed):
    states = []
    parameters = {parameter.name: parameter.default for parameter in PARAMETERS} | changed
    given = {
        "tolerance_s": 0.03,
        "frozen": frozen or Mock(reason=""),
        "callback": lambda stamp_ns, state: states.append((stamp_ns, state)),
    }
    return StateInput(_Node(), spec, parameters, **given), states


def test_joints_are_read_by_name_in_any_order():
    spec = StateSpec(names=("elbow", "velocity.wrist"), units=("rad", "rad/s"))
    reader, states = create(spec, state_topic="arm/joints")
    ((kind, topic, receive),) = reader.subscribe(lambda callback: callback)
    assert (kind, topic) == (JointState, "arm/joints")
    message = JointState(name=["wrist", "elbow"], position=[1.0, 2.0], velocity=[3.0, 4.0])
    receive(message)
    assert not states and "no stamp" in reader.problem(None)
    message.header.stamp = to_time(7)
    receive(message)
    assert states[0][0] == 7 and states[0][1].tolist() == [2.0, 3.0] and not reader.problem(7)
    receive(JointState(header=message.header, name=["wrist"], position=[1.0], velocity=[1.0]))
    assert len(states) == 1 and "no joint elbow" in reader.problem(7)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "set the parameter gripper_joint"),
        ({"gripper_joint": "thumb"}, "no joint thumb"),
        ({**GRIPPER, "gripper_open": 0.0}, "must differ"),
    ],
)
def test_gripper_that_cannot_be_read_is_reported(changed, words):
    reader, states = create(StateSpec(names=ARM_NAMES, units=ARM_UNITS), **changed)
    (_, _, on_pose), (_, topic, on_gripper) = reader.subscribe(lambda callback: callback)
    assert topic == "gripper_state"
    on_gripper(fingers(10**9))
    on_pose(pose(10**9))
    assert not states and words in reader.problem(10**9)


def test_gripper_without_recent_messages_is_reported():
    reader, states = create(StateSpec(names=ARM_NAMES, units=ARM_UNITS), **GRIPPER)
    (_, _, on_pose), (_, _, on_gripper) = reader.subscribe(lambda callback: callback)
    on_gripper(fingers(10**9))
    on_pose(pose(10**9 + 400_000_000))
    np.testing.assert_allclose(states[0][1], STATE, atol=1e-6)
    on_pose(pose(10**9 + 600_000_000))
    assert len(states) == 1 and "gripper_state: the newest message" in reader.problem(None)


def test_state_that_is_an_old_one_is_rejected_until_it_changes():
    frozen = Mock(reason="")
    reader, states = create(StateSpec(names=("x",), units=("m",)), frozen)
    ((_, _, on_pose),) = reader.subscribe(lambda callback: callback)
    on_pose(pose(10**9))
    reader.add_result("an image")
    frozen.add_result.assert_called_once_with("an image")
    frozen.reason = "its driver repeats an old state"
    on_pose(pose(2 * 10**9))
    assert len(states) == 1 and "repeats an old state" in reader.problem(10**9)
    assert frozen.add_state.call_count == 2, "a change has to be noticed"
    frozen.reason = ""
    on_pose(pose(3 * 10**9))
    assert len(states) == 2 and not reader.problem(3 * 10**9)


def test_pose_in_other_units_is_rejected():
    with pytest.raises(ValueError, match=r"x \[m\].*x \[mm\]"):
        create(StateSpec(names=("x", "y"), units=("mm", "mm")))
