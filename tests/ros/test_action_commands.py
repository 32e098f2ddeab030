"""Conversion of a model's actions to messages and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

actions = pytest.importorskip(
    "jepa_ros.common.action_commands", reason="the workspace is not on the paths: . scripts/env.sh"
)
from geometry_msgs.msg import PoseStamped, Quaternion, Twist  # noqa: E402
from std_msgs.msg import Float64, Header  # noqa: E402

from jepa_runtime.ros_messages import euler_from_quaternion  # noqa: E402

pytestmark = pytest.mark.ros

HEADER = Header(frame_id="base_link")
angle = st.floats(-1.5, 1.5)


class FakeNode:
    """Record the subscriptions of a node."""

    def __init__(self) -> None:
        self.callbacks = {}

    def create_subscription(self, kind, topic, callback, qos):
        self.callbacks[topic] = callback
        return topic


@pytest.mark.parametrize("stamped", [False, True])
def test_velocity_command_fills_the_fields_of_a_twist(stamped):
    commands = actions.create_action_commands(["angular.z", "linear.x"], stamped=stamped)
    (message,) = commands.messages(np.array([0.5, -1.0]), HEADER)
    assert not stamped or message.header == HEADER
    twist = message.twist if stamped else message
    assert isinstance(twist, Twist) and (twist.angular.z, twist.linear.x) == (0.5, -1.0)
    assert not commands.per_step
    node, executed = FakeNode(), []
    commands.subscribe(node, executed.append)
    node.callbacks["cmd_vel"](message)
    np.testing.assert_array_equal(executed, [[0.5, -1.0]])


def test_pose_delta_command_is_a_pose_and_a_gripper():
    commands = actions.create_action_commands(actions.POSE_DELTA)
    delta = np.array([0.01, -0.02, 0.03, 0.1, 0.0, 0.0, 0.4], np.float32)
    gripper, pose = commands.messages(delta, HEADER)
    assert isinstance(gripper, Float64) and gripper.data == pytest.approx(0.4)
    assert isinstance(pose, PoseStamped) and pose.header.frame_id == "base_link"
    assert pose.pose.position.z == pytest.approx(0.03)
    assert pose.pose.orientation.x == pytest.approx(math.sin(0.05))
    assert commands.per_step
    assert commands.twist(delta).linear.y == pytest.approx(-0.02)
    assert commands.twist(delta).angular.x == pytest.approx(0.1)


def test_read_pose_delta_includes_the_preceding_gripper_command():
    commands = actions.create_action_commands(actions.POSE_DELTA)
    delta = np.array([0.01, -0.02, 0.03, 0.1, -0.2, 0.3, 0.4], np.float32)
    gripper, pose = commands.messages(delta, HEADER)
    node, executed = FakeNode(), []
    actions.create_action_commands(actions.POSE_DELTA).subscribe(node, executed.append)
    node.callbacks["gripper_delta"](gripper)
    assert not executed
    node.callbacks["pose_delta"](pose)
    np.testing.assert_allclose(executed, [delta], atol=1e-6)


def test_action_subset_in_any_order_sets_the_other_fields_to_zero():
    commands = actions.create_action_commands(["yaw", "x"])
    delta = np.array([0.2, 0.01])
    (pose,) = commands.messages(delta, HEADER)
    np.testing.assert_allclose(commands.read(pose), delta, atol=1e-7)
    whole = [0.01, 0, 0, 0, 0, 0.2]
    np.testing.assert_allclose(
        actions.create_action_commands(actions.POSE_DELTA[:6]).read(pose), whole, atol=1e-7
    )
    twist = commands.twist(delta)
    np.testing.assert_allclose(
        [getattr(part, axis) for part in (twist.linear, twist.angular) for axis in "xyz"], whole
    )


def test_unknown_action_names_are_rejected_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"wheel.*geometry_msgs/Twist.*pose deltas \(x, y, z"):
        actions.create_action_commands(["wheel", "x"])


def test_angles_are_rotations_about_fixed_axes():
    transform = pytest.importorskip("scipy.spatial.transform", reason="scipy is not installed (extra export)")
    roll, pitch, yaw = 0.3, -0.8, 2.1
    q = actions.quaternion_from_euler(roll, pitch, yaw)
    expected = transform.Rotation.from_euler("xyz", [roll, pitch, yaw])
    np.testing.assert_allclose(
        transform.Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix(), expected.as_matrix(), atol=1e-9
    )


@given(angle, angle, angle)
def test_quaternion_round_trip_returns_the_same_angles(roll, pitch, yaw):
    angles = euler_from_quaternion(actions.quaternion_from_euler(roll, pitch, yaw))
    np.testing.assert_allclose(angles, [roll, pitch, yaw], atol=1e-6)


@pytest.mark.parametrize("length", [1e-200, 0.5, 1e200])
def test_quaternion_of_another_norm_is_the_same_rotation(length):
    one = actions.quaternion_from_euler(0.3, -0.2, 0.1)
    other = Quaternion(w=length * one.w, x=length * one.x, y=length * one.y, z=length * one.z)
    np.testing.assert_allclose(euler_from_quaternion(other), [0.3, -0.2, 0.1])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_quaternion_with_non_finite_values_has_no_angles(number):
    assert np.isnan(euler_from_quaternion(Quaternion(w=1.0, x=number))).all()
