"""Which numbers of a ROS 2 message are the action.

A field is a path: ``linear.x``, ``data[2]``, ``pose.position.x``; one that leads to an array stands for all
of it. Of a JointState, ``position.elbow`` is the joint called elbow, wherever it stands in the message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_runtime.bundle.manifest import ActionSpec
from jepa_runtime.util.units import normalize_unit

_TWIST = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")
_JOINTS = "sensor_msgs/msg/JointState"
_DEFAULT_FIELDS: dict[str, tuple[str, ...]] = {
    "geometry_msgs/msg/Twist": _TWIST,
    "geometry_msgs/msg/TwistStamped": _TWIST,
    "jepa_msgs/msg/PlannerStatus": _TWIST,
    "std_msgs/msg/Float32MultiArray": ("data",),
    "std_msgs/msg/Float64MultiArray": ("data",),
    _JOINTS: ("position",),
}
# Where the fields of a type begin, so that a Twist reads the same however it is wrapped.
_ROOTS = {"geometry_msgs/msg/TwistStamped": "twist", "jepa_msgs/msg/PlannerStatus": "command"}
_UNITS = {
    "linear": "m/s",
    "angular": "rad/s",
    "position": "rad or m",
    "velocity": "rad/s or m/s",
    "effort": "N m or N",
}
_TYPES_WITH_UNITS = {_JOINTS, "geometry_msgs/msg/Twist", *_ROOTS}
UNKNOWN_UNIT = "unknown"
# Units that say nothing of what is measured.
_UNTOLD = {UNKNOWN_UNIT, "1"}
_STEP = re.compile(r"(?:^|\.)([A-Za-z]\w*)|\[(\d+)\]")


class CommandFields:
    """Reads the action out of the messages of one topic; what it consists of follows from the first message.

    Args:
        type_name: of the messages (``package/msg/Name``).
        fields: which, in their order; none: all of a Twist (also in a TwistStamped or in jepa's
            PlannerStatus), of a Float32MultiArray or Float64MultiArray, or the positions of a JointState.
        first: the first message.

    Raises:
        ValueError: there is no such field, or it is no number; of this type the fields must be named.
    """

    def __init__(self, type_name: str, fields: Sequence[str], first: Any) -> None:
        self._type_name = type_name
        chosen = tuple(fields) or _DEFAULT_FIELDS.get(type_name, ())
        if not chosen:
            raise ValueError(
                f"which numbers of {type_name} are the action must be said: TOPIC:FIELD,FIELD with fields "
                f"of {', '.join(_parts(first))}"
            )
        self._chosen = chosen
        self._sizes = [np.size(self._value(first, field)) for field in chosen]
        self.names = tuple(name for field in chosen for name in self._names(first, field))
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(
                f"an action is made of one or more different numbers, got {', '.join(self.names) or 'none'}"
            )
        units = _UNITS if type_name in _TYPES_WITH_UNITS else {}
        self.units = tuple(units.get(name.split(".")[0], UNKNOWN_UNIT) for name in self.names)

    def read(self, message: Any) -> list[float]:
        """The action [A] in a message.

        Raises:
            ValueError: it has no such field, or more or fewer numbers than the first one.
        """
        if self._type_name == _JOINTS:
            return [float(self._value(message, name)) for name in self.names]
        values: list[float] = []
        for field, size in zip(self._chosen, self._sizes, strict=True):
            value = self._value(message, field)
            if np.size(value) != size:
                raise ValueError(f"{field} has {np.size(value)} numbers, the first message has {size}")
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
        root = _ROOTS.get(self._type_name)
        value = _walk(message if root is None else getattr(message, root), field, self._type_name)
        if np.asarray(value).dtype.kind not in "fiu" or np.ndim(value) > 1:
            raise ValueError(f"{self._type_name} has no number {field}, only {type(value).__name__}")
        return value

    def _joint(self, message: Any, kind: str, joint: str) -> Any:
        if joint not in message.name:
            raise ValueError(f"there is no joint {joint}; joints: {', '.join(message.name) or 'none'}")
        values = _walk(message, kind, self._type_name)
        index = list(message.name).index(joint)
        if index >= len(values):
            raise ValueError(f"joint {joint} has no {kind}")
        return values[index]


def misfit(names: Sequence[str], units: Sequence[str], action: ActionSpec) -> str | None:
    """Why these numbers are not the action of a model, as far as names and units tell; None: they may be."""
    pairs = zip(names, action.names, units, action.units, strict=False)
    if len(names) == len(action.names) and all(
        (name == wanted or name not in action.names) and _agree(unit, meant)
        for name, wanted, unit, meant in pairs
    ):
        return None
    return (
        f"its actions are {_listed(names, units)}; the model's actions are "
        f"{_listed(action.names, action.units)}: name these"
    )


def _agree(unit: str, other: str) -> bool:
    mine, theirs = ({normalize_unit(each) for each in units.split(" or ")} for units in (unit, other))
    return bool(_UNTOLD & {unit, other} or mine & theirs)


def _listed(names: Sequence[str], units: Sequence[str]) -> str:
    return ", ".join(
        name if unit in _UNTOLD else f"{name} [{unit}]" for name, unit in zip(names, units, strict=True)
    )


def _walk(value: Any, path: str, type_name: str) -> Any:
    steps = list(_STEP.finditer(path))
    if "".join(step.group() for step in steps) != path:
        raise ValueError(f"{path!r} is not a field; write it as linear.x or data[2]")
    for step in steps:
        name, index = step.groups()
        if name is not None:
            if not hasattr(value, name):
                listed = ", ".join(_parts(value)) or "no fields"
                raise ValueError(f"{type_name} has no {path}: at {name} there are {listed}")
            value = getattr(value, name)
        elif not hasattr(value, "__len__") or int(index) >= len(value):
            size = len(value) if hasattr(value, "__len__") else "no"
            raise ValueError(f"{type_name} has no {path}: there are {size} numbers")
        else:
            value = value[int(index)]
    return value


def _parts(message: Any) -> list[str]:
    return [name for name in getattr(message, "__dataclass_fields__", ()) if not name.startswith("_")]
