"""The measured state of the robot, for models that read it; the names of its components choose the messages.

*Poses* (``x``, ``y``, ``z``, ``roll``, ``pitch``, ``yaw``, or some of them), as in V-JEPA 2-AC, come as a
geometry_msgs/PoseStamped, which drivers of arms publish. A ``gripper`` comes as a sensor_msgs/JointState of
another topic. All other states are joints, in one sensor_msgs/JointState: ``elbow`` is its position,
``velocity.elbow`` its velocity. Messages without a stamp could not be matched to images.

A message that cannot be used is not passed on, so that the images around its stamp have no futures.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import JointState

from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from jepa_ros.common.duplicate_publishers import duplicate_publishers
from jepa_runtime.bundle import StateSpec
from jepa_runtime.ros_messages import POSE_NAMES, POSE_UNITS, euler_pose
from jepa_runtime.serving import FrozenStateCheck, Result
from jepa_runtime.sources import UNKNOWN_UNIT, MessageFields, state_mismatch
from jepa_runtime.util import StateParts

_GRIPPER = "gripper"
_JOINT_STATE = "sensor_msgs/msg/JointState"
_KINDS = ("position.", "velocity.", "effort.")
# Stamps of 4 s at 1 kHz, which are compared with those of images.
_STAMPS = 4096

StateCallback = Callable[[int, NDArray[np.float32]], None]


class StateInput:
    """Subscribes to the state that a model reads.

    Its methods are called by the executor's thread, except for :meth:`add_result`.

    Args:
        node: Node that owns the subscriptions.
        spec: The state that the model reads.
        parameters: Parameters of the node.
        tolerance_s: Longest time between an image and its state.
        frozen: Detects a driver that repeats an old state.
        callback: Receives the stamp [ns] and the values [S] of each state.

    Attributes:
        accepted: Number of states.
        rejected: Number of rejected messages.

    Raises:
        ValueError: A component of a pose is not in m or rad.
    """

    def __init__(
        self,
        node: Node,
        spec: StateSpec,
        parameters: Mapping[str, Any],
        *,
        tolerance_s: float,
        frozen: FrozenStateCheck,
        callback: StateCallback,
    ) -> None:
        self._node, self._spec, self._parameters = node, spec, parameters
        self._tolerance_s, self._frozen, self._callback = tolerance_s, frozen, callback
        has_pose, has_gripper = bool({*POSE_NAMES} & {*spec.names}), _GRIPPER in spec.names
        self._is_pose = has_pose and {*spec.names} <= {*POSE_NAMES, _GRIPPER}
        topic = parameters["state_topic"] or ("pose" if self._is_pose else "joint_states")
        self.topics = [topic, *([parameters["gripper_topic"]] if self._is_pose and has_gripper else [])]
        if self._is_pose:
            units = dict(zip(POSE_NAMES, POSE_UNITS, strict=True)) | {_GRIPPER: UNKNOWN_UNIT}
            reason = state_mismatch(spec.names, [units[name] for name in spec.names], spec)
            if reason is not None:
                raise ValueError(f"topic {topic}: {reason.removesuffix(': select these')}")
        # Order of the joined parts in the state.
        joined = [*(name for name in spec.names if name != _GRIPPER), _GRIPPER]
        self._order = [joined.index(name) for name in spec.names] if self._is_pose else None
        self._fields: MessageFields | None = None
        self.begin()

    def begin(self) -> None:
        """Reset the state for a new activation."""
        self._frozen.begin()
        self._parts = StateParts(len(self.topics))
        self._stamps: deque[int] = deque(maxlen=_STAMPS)
        self._rejections = [""] * len(self.topics)
        self._duplicates: list[str] = []
        self._received: Counter[int] = Counter()
        self.accepted = self.rejected = 0

    def subscribe(self, wrap: Callable[[Callable[[Any], None]], Callable[[Any], None]]) -> list[Any]:
        """Create the subscriptions; their callbacks are passed through ``wrap``."""
        subscribe, kind = self._node.create_subscription, PoseStamped if self._is_pose else JointState
        first = self._read_pose if self._is_pose else self._read_joints
        inputs = [(kind, first), (JointState, self._read_gripper)][: len(self.topics)]
        return [
            subscribe(each, topic, wrap(self._receiver(part, read)), qos.SENSOR)
            for part, (topic, (each, read)) in enumerate(zip(self.topics, inputs, strict=True))
        ]

    def count_publishers(self) -> None:
        """Look for other publishers, whose states would be mixed; until they are gone, none are used."""
        topics = [self._node.resolve_topic_name(topic) for topic in self.topics]
        hint = "remap or stop all but one, so that the states of two robots are not mixed"
        self._duplicates = duplicate_publishers(self._node, topics, hint)

    def problem(self, image_ns: int | None) -> str:
        """Return why the newest image has no state; empty: it has one.

        Args:
            image_ns: Stamp of the image; None: there is none.
        """
        if self._duplicates:
            return self._duplicates[0]
        for part, topic in enumerate(self.topics):
            if self._rejections[part]:
                return f"{topic}: {self._rejections[part]}"
            if not self._received[part]:
                return f"no state of the robot on {topic}: the model reads {', '.join(self._spec.names)}"
        if self._parts.missing is not None:
            first, other = self.topics[0], self.topics[self._parts.missing]
            return f"{other}: the newest message is too far in time from those on {first}"
        if image_ns is None or not self._stamps:
            return ""
        nearest_ns = min(self._stamps, key=lambda stamp_ns: abs(stamp_ns - image_ns))
        gap_s = (image_ns - nearest_ns) / 1e9
        if abs(gap_s) <= self._tolerance_s:
            return ""
        return (
            f"{self.topics[0]}: the nearest state is {abs(gap_s):.3f} s "
            f"{'before' if gap_s > 0 else 'after'} the image (limit: {self._tolerance_s:g} s): check that it "
            "is published and uses the clock of the images"
        )

    def add_result(self, result: Result) -> None:
        """Add the result of an image, which may show that the state is an old one."""
        self._frozen.add_result(result)

    def _receiver(self, part: int, read: Callable[[Any], Sequence[float]]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            self._received[part] += 1
            try:
                self._receive(part, from_time(message.header.stamp), read(message))
            except ValueError as error:
                self.rejected += 1
                self._rejections[part] = str(error)
                self._node.get_logger().error(
                    f"state of the robot rejected: {self.topics[part]}: {error}", throttle_duration_sec=5.0
                )

        return receive

    def _receive(self, part: int, stamp_ns: int, values: Sequence[float]) -> None:
        if stamp_ns <= 0:
            raise ValueError("a message has no stamp, so that it cannot be matched to an image")
        ahead_s = (stamp_ns - int(self._node.get_clock().now().nanoseconds)) / 1e9
        if ahead_s > self._tolerance_s:
            # It would match an image that is taken later.
            raise ValueError(
                f"the stamp is {ahead_s:.3f} s ahead of this node's clock (limit: {self._tolerance_s:g} s): "
                "synchronize the clocks"
            )
        if self._duplicates:
            raise ValueError(self._duplicates[0])
        state = self._parts.add(part, stamp_ns, values)
        self._rejections[part] = ""
        if state is None:
            return
        ordered = state.values if self._order is None else state.values[self._order]
        self._frozen.add_state(stamp_ns, ordered)
        if self._frozen.reason:
            raise ValueError(self._frozen.reason)
        self.accepted += 1
        self._stamps.append(stamp_ns)
        self._callback(stamp_ns, ordered)

    def _read_pose(self, message: PoseStamped) -> list[float]:
        pose = euler_pose(message.pose)
        return [getattr(pose, name) for name in self._spec.names if name != _GRIPPER]

    def _read_joints(self, message: JointState) -> list[float]:
        if self._fields is None:
            paths = [name if name.startswith(_KINDS) else f"position.{name}" for name in self._spec.names]
            self._fields = MessageFields(_JOINT_STATE, paths, message)
        return self._fields.read(message)

    def _read_gripper(self, message: JointState) -> list[float]:
        joint = self._parameters["gripper_joint"]
        if not joint and len(message.name) == 1:
            joint = message.name[0]
        if not joint:
            raise ValueError(
                f"there are {len(message.name)} joints ({', '.join(message.name)}): set the parameter "
                "gripper_joint"
            )
        (position,) = MessageFields(_JOINT_STATE, [f"position.{joint}"], message).read(message)
        opened, closed = self._parameters["gripper_open"], self._parameters["gripper_closed"]
        if opened == closed:
            raise ValueError("parameters gripper_open and gripper_closed must differ")
        return [(position - opened) / (closed - opened)]
