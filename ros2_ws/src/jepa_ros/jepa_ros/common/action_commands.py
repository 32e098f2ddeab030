"""Messages that carry the actions of a model, chosen by the action names.

*Velocities* are fields of a geometry_msgs/Twist on ``cmd_vel`` (``linear.x`` … ``angular.z``) that apply
until the next message, or of a TwistStamped, the only command that many bases accept since ROS 2 Jazzy.
*Pose deltas* (``x``, ``y``, ``z`` in m; ``roll``, ``pitch``, ``yaw`` in rad; ``gripper``), as in V-JEPA 2-AC,
are the change of the end effector's pose within one step of the model. They are sent as a std_msgs/Float64 on
``gripper_delta``, followed by a geometry_msgs/PoseStamped on ``pose_delta`` whose position is the
displacement and whose orientation is the rotation about the fixed axes x, y, z, in this order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped, Quaternion, Twist, TwistStamped
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Float64, Header

from jepa_ros.common import qos
from jepa_ros.common.conversions import TwistActions
from jepa_ros.common.parameters import STAMPED_CMD_VEL
from jepa_runtime.ros_messages import POSE_NAMES, euler_from_quaternion
from jepa_runtime.util import normalize_unit

CMD_VEL = "cmd_vel"
POSE_DELTA = (*POSE_NAMES, "gripper")
_ANGLES = POSE_DELTA[3:6]
_UNITS = {"linear": "m/s", "angular": "rad/s"} | dict.fromkeys("xyz", "m") | dict.fromkeys(_ANGLES, "rad")

ActionCallback = Callable[[NDArray[np.float32]], None]


class ActionCommands(Protocol):
    """Convert actions to command messages and back.

    Attributes:
        per_step: Whether an action is a change within one step, so that it must be sent once per step.
    """

    per_step: bool

    def create_publishers(self, node: Node) -> list[Any]:
        """Create the publishers of :meth:`messages`, in the same order."""

    def messages(self, action: NDArray[np.floating], header: Header) -> list[Any]:
        """Return the messages that command ``action`` [A]."""

    def twist(self, action: NDArray[np.floating]) -> Twist:
        """Return ``action`` [A] as a Twist for display."""

    def subscribe(self, node: Node, callback: ActionCallback, topic: str = "") -> list[Any]:
        """Create subscriptions that pass the executed actions [A] of a robot to ``callback``.

        Args:
            node: Node that owns the subscriptions.
            callback: Receives each action.
            topic: Topic of the velocities or poses. Empty: the topic of :meth:`create_publishers`.
        """

    def conflicts(self, node: Node) -> list[str]:
        """Return a warning for each topic that other nodes use with another message type.

        Such nodes do not receive each other's messages, and the middleware does not report it.
        """


class VelocityCommands:
    """Send actions as fields of a Twist, or of a TwistStamped if ``stamped``."""

    per_step = False

    def __init__(self, names: Sequence[str], *, stamped: bool = False) -> None:
        fields = TwistActions(tuple(names))
        self.twist, self._read = fields.to_twist, fields.from_twist
        self._stamped = stamped
        self._message_type = TwistStamped if stamped else Twist

    def create_publishers(self, node: Node) -> list[Any]:
        return [node.create_publisher(self._message_type, CMD_VEL, qos.RESULT)]

    def messages(self, action: NDArray[np.floating], header: Header) -> list[Any]:
        twist = self.twist(action)
        return [TwistStamped(header=header, twist=twist) if self._stamped else twist]

    def subscribe(self, node: Node, callback: ActionCallback, topic: str = "") -> list[Any]:
        def on_velocities(message: Twist | TwistStamped) -> None:
            callback(self._read(message.twist if isinstance(message, TwistStamped) else message))

        return [node.create_subscription(self._message_type, topic or CMD_VEL, on_velocities, qos.RESULT)]

    def conflicts(self, node: Node) -> list[str]:
        queries = (node.get_publishers_info_by_topic, node.get_subscriptions_info_by_topic)
        types = sorted({info.topic_type for query in queries for info in query(CMD_VEL)})
        if len(types) < 2:
            return []
        return [
            f"{CMD_VEL} has several message types ({', '.join(types)}): set {STAMPED_CMD_VEL.name} to match"
            " the base"
        ]


class PoseDeltaCommands:
    """Send actions as a change of a pose, and of a gripper, within one step."""

    per_step = True

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._has_gripper = "gripper" in self._names
        self._gripper = 0.0

    def create_publishers(self, node: Node) -> list[Any]:
        pose = node.create_publisher(PoseStamped, "pose_delta", qos.RESULT)
        if not self._has_gripper:
            return [pose]
        return [node.create_publisher(Float64, "gripper_delta", qos.RESULT), pose]

    def messages(self, action: NDArray[np.floating], header: Header) -> list[Any]:
        delta = self._by_name(action)
        message = PoseStamped(header=header)
        position = message.pose.position
        position.x, position.y, position.z = (delta[name] for name in "xyz")
        message.pose.orientation = quaternion_from_euler(*(delta[name] for name in _ANGLES))
        return [Float64(data=delta["gripper"]), message] if self._has_gripper else [message]

    def twist(self, action: NDArray[np.floating]) -> Twist:
        delta, message = self._by_name(action), Twist()
        for part, names in ((message.linear, POSE_DELTA[:3]), (message.angular, _ANGLES)):
            part.x, part.y, part.z = (delta[name] for name in names)
        return message

    def subscribe(self, node: Node, callback: ActionCallback, topic: str = "") -> list[Any]:
        def on_gripper(message: Float64) -> None:
            self._gripper = message.data

        def on_pose(message: PoseStamped) -> None:
            callback(self.read(message))

        pose = node.create_subscription(PoseStamped, topic or "pose_delta", on_pose, qos.RESULT)
        if not self._has_gripper:
            return [pose]
        return [pose, node.create_subscription(Float64, "gripper_delta", on_gripper, qos.RESULT)]

    def conflicts(self, node: Node) -> list[str]:
        return []

    def read(self, message: PoseStamped) -> NDArray[np.float32]:
        """Return the action [A] in ``message``, with the last value of the gripper."""
        position, angles = message.pose.position, euler_from_quaternion(message.pose.orientation)
        values = (position.x, position.y, position.z, *angles, self._gripper)
        delta = dict(zip(POSE_DELTA, values, strict=True))
        return np.array([delta[name] for name in self._names], np.float32)

    def _by_name(self, action: NDArray[np.floating]) -> dict[str, float]:
        return dict.fromkeys(POSE_DELTA, 0.0) | dict(zip(self._names, map(float, action), strict=True))


def create_action_commands(names: Sequence[str], *, stamped: bool = False) -> ActionCommands:
    """Return the commands for actions with these names.

    Args:
        names: Action names of the model.
        stamped: Whether velocities are sent in a TwistStamped.

    Raises:
        ValueError: The actions are neither velocities nor pose deltas.
    """
    if set(names) <= set(POSE_DELTA):
        return PoseDeltaCommands(names)
    try:
        return VelocityCommands(names, stamped=stamped)
    except ValueError as error:
        raise ValueError(f"{error}, and not all of them are pose deltas ({', '.join(POSE_DELTA)})") from None


def validate_action_units(names: Sequence[str], units: Sequence[str]) -> None:
    """Validate that the actions have the units of REP 103, which the messages use.

    A gripper may have any unit.

    Raises:
        ValueError: A unit is missing or differs.
    """
    if len(units) != len(names):
        raise ValueError(
            f"the model has {len(units)} units for {len(names)} action components: set one unit for each in "
            "io.action.units of its manifest"
        )
    for name, unit in zip(names, units, strict=True):
        expected = _UNITS.get(name, _UNITS.get(name.partition(".")[0], unit))
        if normalize_unit(unit) != normalize_unit(expected):
            raise ValueError(
                f"the model's action {name} is in {unit!r}, but ROS 2 messages use {expected}: the robot "
                f"would execute wrong values. Train or export the model with actions in {expected}"
            )


def quaternion_from_euler(roll: float, pitch: float, yaw: float) -> Quaternion:
    """Return the rotation about the fixed axes x, then y, then z, by these angles [rad]."""
    (cr, sr), (cp, sp), (cy, sy) = (
        (math.cos(angle / 2), math.sin(angle / 2)) for angle in (roll, pitch, yaw)
    )
    return Quaternion(
        w=cr * cp * cy + sr * sp * sy,
        x=sr * cp * cy - cr * sp * sy,
        y=cr * sp * cy + sr * cp * sy,
        z=cr * cp * sy - sr * sp * cy,
    )
