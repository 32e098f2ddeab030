"""How actions of a model are told to a robot, by their names.

*Velocities* are fields of a geometry_msgs/Twist on ``cmd_vel`` (``linear.x`` … ``angular.z``), which hold
until the next; or of a TwistStamped, the only command that many bases take since ROS 2 Jazzy. *Pose deltas*
(``x``, ``y``, ``z`` in m; ``roll``, ``pitch``, ``yaw`` in rad; ``gripper``), as V-JEPA 2-AC has them, are how
the pose of an end effector is to change within one step of the model: a geometry_msgs/PoseStamped on
``pose_delta`` whose position is the displacement and whose orientation the rotation about the fixed axes x,
y, z, in this order, and a std_msgs/Float64 on ``gripper_delta`` before it.
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
from jepa_ros.common.parameters import STAMPED
from jepa_runtime.util.units import normalize_unit

CMD_VEL = "cmd_vel"
POSE_DELTA = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_ANGLES = POSE_DELTA[3:6]
_UNITS = {"linear": "m/s", "angular": "rad/s"} | dict.fromkeys("xyz", "m") | dict.fromkeys(_ANGLES, "rad")

Take = Callable[[NDArray[np.float32]], None]


class Actions(Protocol):
    """One way to tell them.

    Attributes:
        per_step: an action is a change within one step, so that it must not be told twice a step.
    """

    per_step: bool

    def publishers(self, node: Node) -> list[Any]:
        """What :meth:`messages` are sent with, in the same order."""

    def messages(self, action: NDArray[np.floating], header: Header) -> list[Any]:
        """What tells ``action`` [A]."""

    def twist(self, action: NDArray[np.floating]) -> Twist:
        """``action`` [A] for people."""

    def listen(self, node: Node, take: Take, topic: str = "") -> list[Any]:
        """Subscriptions that hand the actions [A] which a robot executes to ``take``; of the velocities, or
        the poses, on ``topic`` (empty: as they are published)."""

    def conflicts(self, node: Node) -> list[str]:
        """That others do not hear what is told, nor are heard, since their messages have another type: of
        which the middleware says nothing."""


class Velocities:
    """Fields of a Twist; ``stamped``: of one in a TwistStamped."""

    per_step = False

    def __init__(self, names: Sequence[str], *, stamped: bool = False) -> None:
        fields = TwistActions(tuple(names))
        self.twist, self._read = fields.to_twist, fields.from_twist
        self._stamped = stamped
        self._kind = TwistStamped if stamped else Twist

    def publishers(self, node: Node) -> list[Any]:
        return [node.create_publisher(self._kind, CMD_VEL, qos.RESULT)]

    def messages(self, action: NDArray[np.floating], header: Header) -> list[Any]:
        twist = self.twist(action)
        return [TwistStamped(header=header, twist=twist) if self._stamped else twist]

    def listen(self, node: Node, take: Take, topic: str = "") -> list[Any]:
        def on_velocities(message: Twist | TwistStamped) -> None:
            take(self._read(message.twist if self._stamped else message))

        return [node.create_subscription(self._kind, topic or CMD_VEL, on_velocities, qos.RESULT)]

    def conflicts(self, node: Node) -> list[str]:
        asked = (node.get_publishers_info_by_topic, node.get_subscriptions_info_by_topic)
        types = sorted({info.topic_type for ask in asked for info in ask(CMD_VEL)})
        if len(types) < 2:
            return []
        return [f"{CMD_VEL} is {' for some and '.join(types)} for others: {STAMPED.name} must fit the base"]


class PoseDeltas:
    """How a pose, and a gripper, change within one step."""

    per_step = True

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._has_gripper = "gripper" in self._names
        self._gripper = 0.0

    def publishers(self, node: Node) -> list[Any]:
        pose = node.create_publisher(PoseStamped, "pose_delta", qos.RESULT)
        if not self._has_gripper:
            return [pose]
        return [node.create_publisher(Float64, "gripper_delta", qos.RESULT), pose]

    def messages(self, action: NDArray[np.floating], header: Header) -> list[Any]:
        delta = self._named(action)
        message = PoseStamped(header=header)
        place = message.pose.position
        place.x, place.y, place.z = (delta[name] for name in "xyz")
        message.pose.orientation = quaternion_of(*(delta[name] for name in _ANGLES))
        return [Float64(data=delta["gripper"]), message] if self._has_gripper else [message]

    def twist(self, action: NDArray[np.floating]) -> Twist:
        delta, message = self._named(action), Twist()
        for part, names in ((message.linear, POSE_DELTA[:3]), (message.angular, _ANGLES)):
            part.x, part.y, part.z = (delta[name] for name in names)
        return message

    def listen(self, node: Node, take: Take, topic: str = "") -> list[Any]:
        def on_gripper(message: Float64) -> None:
            self._gripper = message.data

        def on_pose(message: PoseStamped) -> None:
            take(self.read(message))

        subscribe = node.create_subscription
        pose = subscribe(PoseStamped, topic or "pose_delta", on_pose, qos.RESULT)
        if not self._has_gripper:
            return [pose]
        return [pose, subscribe(Float64, "gripper_delta", on_gripper, qos.RESULT)]

    def conflicts(self, node: Node) -> list[str]:
        return []

    def read(self, message: PoseStamped) -> NDArray[np.float32]:
        """The action [A] in ``message``, with what was heard of the gripper last."""
        place, angles = message.pose.position, angles_of(message.pose.orientation)
        delta = dict(zip(POSE_DELTA, (place.x, place.y, place.z, *angles, self._gripper), strict=True))
        return np.array([delta[name] for name in self._names], np.float32)

    def _named(self, action: NDArray[np.floating]) -> dict[str, float]:
        return dict.fromkeys(POSE_DELTA, 0.0) | dict(zip(self._names, map(float, action), strict=True))


def actions_of(names: Sequence[str], *, stamped: bool = False) -> Actions:
    """How actions with these names are told; ``stamped``: velocities in a TwistStamped.

    Raises:
        ValueError: they are neither velocities nor pose deltas.
    """
    if set(names) <= set(POSE_DELTA):
        return PoseDeltas(names)
    try:
        return Velocities(names, stamped=stamped)
    except ValueError as error:
        raise ValueError(f"{error}, nor are all of them pose deltas ({', '.join(POSE_DELTA)})") from None


def check_units(names: Sequence[str], units: Sequence[str]) -> None:
    """Check that the actions with these names are in the units of REP 103, in which messages carry them. A
    gripper may have any unit.

    Raises:
        ValueError: one is not, or there is not one for each.
    """
    if len(units) != len(names):
        raise ValueError(
            f"the model names {len(units)} units for {len(names)} components of an action: state one for "
            "each in io.action.units of its manifest"
        )
    for name, unit in zip(names, units, strict=True):
        expected = _UNITS.get(name, _UNITS.get(name.partition(".")[0], unit))
        if normalize_unit(unit) != normalize_unit(expected):
            raise ValueError(
                f"the model's action {name} is in {unit!r}, and ROS 2 messages carry it in {expected}: the "
                f"robot would move by other numbers. Train or export the model with actions in {expected}"
            )


def quaternion_of(roll: float, pitch: float, yaw: float) -> Quaternion:
    """The rotation about the fixed axes x, then y, then z, by these angles [rad]."""
    (cr, sr), (cp, sp), (cy, sy) = (
        (math.cos(angle / 2), math.sin(angle / 2)) for angle in (roll, pitch, yaw)
    )
    return Quaternion(
        w=cr * cp * cy + sr * sp * sy,
        x=sr * cp * cy - cr * sp * sy,
        y=cr * sp * cy + sr * cp * sy,
        z=cr * cp * sy - sr * sp * cy,
    )


def angles_of(q: Quaternion) -> tuple[float, float, float]:
    """The angles [rad] of :func:`quaternion_of`; pitch lies within a quarter turn. Of any length but zero,
    which is no rotation; NaN where the numbers are not finite."""
    length = math.hypot(q.w, q.x, q.y, q.z) or 1.0
    w, x, y, z = q.w / length, q.x / length, q.y / length, q.z / length
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(np.clip(2 * (w * y - z * x), -1.0, 1.0))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return roll, pitch, yaw
