"""Selection of the numbers of a ROS 2 message that are the action, or the measured state of the robot.

A field is a path: ``linear.x``, ``data[2]``, ``pose.position.x``; the path of an array stands for all its
elements. In a JointState, ``position.elbow`` is the joint named elbow, at any index. A PoseStamped also has
the fields ``x``, ``y``, ``z``, ``roll``, ``pitch`` and ``yaw`` (see :mod:`jepa_runtime.ros_messages.poses`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_runtime.bundle.manifest import ActionSpec, StateSpec
from jepa_runtime.ros_messages.poses import POSE_NAMES, POSE_UNITS, euler_pose
from jepa_runtime.util.units import normalize_unit

_TWIST = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")
_JOINTS = "sensor_msgs/msg/JointState"
_POSE = "geometry_msgs/msg/PoseStamped"
_DEFAULT_FIELDS: dict[str, tuple[str, ...]] = {
    "geometry_msgs/msg/Twist": _TWIST,
    "geometry_msgs/msg/TwistStamped": _TWIST,
    "jepa_msgs/msg/PlannerStatus": _TWIST,
    "std_msgs/msg/Float32MultiArray": ("data",),
    "std_msgs/msg/Float64MultiArray": ("data",),
    _JOINTS: ("position",),
    _POSE: POSE_NAMES,
}
# The member at which the fields of a type begin, so that a Twist has the same fields in all messages.
_ROOTS = {"geometry_msgs/msg/TwistStamped": "twist", "jepa_msgs/msg/PlannerStatus": "command"}
_UNITS = {
    "linear": "m/s",
    "angular": "rad/s",
    "position": "rad or m",
    "velocity": "rad/s or m/s",
    "effort": "N m or N",
    **dict(zip(POSE_NAMES, POSE_UNITS, strict=True)),
}
_TYPES_WITH_UNITS = {_JOINTS, _POSE, "geometry_msgs/msg/Twist", *_ROOTS}
UNKNOWN_UNIT = "unknown"
"""The unit of a field of a type that is not known."""
# Units that do not identify the quantity.
_UNSPECIFIC = {UNKNOWN_UNIT, "1"}
_STEP = re.compile(r"(?:^|\.)([A-Za-z]\w*)|\[(\d+)\]")


class MessageFields:
    """Extracts numbers from the messages of one topic; the first message determines the components.

    Args:
        type_name: The type of the messages (``package/msg/Name``).
        fields: The fields, in order. Empty: all of a Twist (also in a TwistStamped or a PlannerStatus of
            jepa_msgs), of a Float32MultiArray or Float64MultiArray, the positions of a JointState, or the
            position and the angles of a PoseStamped.
        first: The first message.

    Raises:
        ValueError: A field does not exist or is not a number, or this type has no default fields.
    """

    def __init__(self, type_name: str, fields: Sequence[str], first: Any) -> None:
        self._type_name = type_name
        chosen = tuple(fields) or _DEFAULT_FIELDS.get(type_name, ())
        if not chosen:
            raise ValueError(
                f"{type_name} has no default fields: specify them as TOPIC:FIELD,FIELD, with fields "
                f"of {', '.join(_members(first))}"
            )
        self._chosen = chosen
        self._sizes = [np.size(self._value(first, field)) for field in chosen]
        self.names = tuple(name for field in chosen for name in self._names(first, field))
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"one or more distinct fields are needed, got {', '.join(self.names) or 'none'}")
        units = _UNITS if type_name in _TYPES_WITH_UNITS else {}
        self.units = tuple(units.get(name.split(".")[0], UNKNOWN_UNIT) for name in self.names)

    def read(self, message: Any) -> list[float]:
        """Return the numbers in a message, in the order of :attr:`names`.

        Raises:
            ValueError: A field does not exist, has another number of elements than in the first message, or
                is of a pose that is not valid.
        """
        if self._type_name == _JOINTS:
            return [float(self._value(message, name)) for name in self.names]
        values: list[float] = []
        for field, size in zip(self._chosen, self._sizes, strict=True):
            value = self._value(message, field)
            if np.size(value) != size:
                raise ValueError(f"{field} has {np.size(value)} numbers, in the first message {size}")
            values += np.ravel(value).tolist()
        return values

    def _names(self, message: Any, field: str) -> list[str]:
        value = self._value(message, field)
        if np.ndim(value) == 0:
            return [field]
        if self._type_name == _JOINTS:
            return [f"{field}.{joint}" for joint in message.name]
        return [f"{field}[{index}]" for index in range(len(value))]

    def _value(self, message: Any, field: str) -> Any:
        kind, _, joint = field.partition(".")
        if self._type_name == _JOINTS and joint:
            return self._joint(message, kind, joint)
        if self._type_name == _POSE and field in POSE_NAMES:
            return getattr(euler_pose(message.pose), field)
        root = _ROOTS.get(self._type_name)
        value = _walk(message if root is None else getattr(message, root), field, self._type_name)
        if np.asarray(value).dtype.kind not in "fiu" or np.ndim(value) > 1:
            raise ValueError(f"{self._type_name} has no number {field}, only {type(value).__name__}")
        return value

    def _joint(self, message: Any, kind: str, joint: str) -> Any:
        if joint not in message.name:
            raise ValueError(f"no joint {joint}; joints: {', '.join(message.name) or 'none'}")
        values = _walk(message, kind, self._type_name)
        index = list(message.name).index(joint)
        if index >= len(values):
            raise ValueError(f"joint {joint} has no {kind}")
        return values[index]


def action_mismatch(names: Sequence[str], units: Sequence[str], action: ActionSpec) -> str | None:
    """Return why names and units contradict the action of a model; None if they do not."""
    if _match(names, units, action):
        return None
    return (
        f"its actions are {_describe(names, units)}; the model's actions are "
        f"{_describe(action.names, action.units)}: select these"
    )


def state_mismatch(names: Sequence[str], units: Sequence[str], state: StateSpec) -> str | None:
    """Return why names and units contradict the state that a model reads; None if they do not."""
    if _match(names, units, state):
        return None
    return (
        f"its states are {_describe(names, units)}; the model reads "
        f"{_describe(state.names, state.units)}: select these"
    )


def _match(names: Sequence[str], units: Sequence[str], spec: ActionSpec | StateSpec) -> bool:
    pairs = zip(names, spec.names, units, spec.units, strict=False)
    return len(names) == len(spec.names) and all(
        (name == expected or name not in spec.names) and _agree(unit, expected_unit)
        for name, expected, unit, expected_unit in pairs
    )


def _agree(unit: str, other: str) -> bool:
    mine, theirs = ({normalize_unit(each) for each in units.split(" or ")} for units in (unit, other))
    return bool(_UNSPECIFIC & {unit, other} or mine & theirs)


def _describe(names: Sequence[str], units: Sequence[str]) -> str:
    return ", ".join(
        name if unit in _UNSPECIFIC else f"{name} [{unit}]" for name, unit in zip(names, units, strict=True)
    )


def _walk(value: Any, path: str, type_name: str) -> Any:
    steps = list(_STEP.finditer(path))
    if "".join(step.group() for step in steps) != path:
        raise ValueError(f"{path!r} is not a field: write it as linear.x or data[2]")
    for step in steps:
        name, index = step.groups()
        if name is not None:
            if not hasattr(value, name):
                members = ", ".join(_members(value)) or "no fields"
                raise ValueError(f"{type_name} has no {path}: the fields at {name} are {members}")
            value = getattr(value, name)
        elif not hasattr(value, "__len__") or int(index) >= len(value):
            size = len(value) if hasattr(value, "__len__") else "no"
            raise ValueError(f"{type_name} has no {path}: it has {size} elements there")
        else:
            value = value[int(index)]
    return value


def _members(message: Any) -> list[str]:
    return [name for name in getattr(message, "__dataclass_fields__", ()) if not name.startswith("_")]
