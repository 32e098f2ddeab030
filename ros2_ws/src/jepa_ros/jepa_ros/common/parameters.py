"""Node parameters as data: described, ranged and checked, with a reason for every refusal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.validate_topic_name import validate_topic_name

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util.output_files import check_writable

_RELATIVE_TOPIC = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)

Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a node.

    Args:
        name, default: as in the YAML file; the type of the default is the type of the parameter.
        description: one sentence with the unit.
        low, high: inclusive limits of a number, or of each number of an array.
        choices: the only values a string may take.
        read_only: set at start, never after.
        when_unconfigured: changes are refused once a lifecycle node is configured.
    """

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False
    when_unconfigured: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        constraints = []
        if self.choices:
            constraints.append("one of: " + ", ".join(self.choices))
        if self.when_unconfigured:
            constraints.append("can be changed only while the node is unconfigured")
        if isinstance(self.default, tuple) and self.low is not None:
            # ROS 2 has no ranges for arrays: :meth:`refusal` checks them.
            constraints.append(f"each from {self.low} to {self.high}")
        described = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints="; ".join(constraints),
            read_only=self.read_only,
        )
        if not isinstance(self.default, tuple) and self.low is not None and self.high is not None:
            if isinstance(self.default, int):
                described.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high))]
            else:
                described.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                ]
        return described

    def refusal(self, value: Any) -> str:
        """Why ``value`` cannot be taken; empty if it can."""
        if value is None:
            return f"{self.name} has no value, or an empty list: leave it out for its default"
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{self.name} must be a finite number, got {value}"
        if isinstance(self.default, tuple) and self.low is not None and self.high is not None:
            outside = [each for each in value if not self.low <= each <= self.high]
            if outside:
                return f"{self.name} must hold numbers in the range {self.low} to {self.high}, got {outside}"
        return ""


REPORT_PATH = Parameter(
    name="report_path",
    default="",
    description="File to which the node writes its counters as JSON when it stops; empty: none.",
    read_only=True,
)

STAMPED = Parameter(
    name="enable_stamped_cmd_vel",
    default=False,
    description="cmd_vel is a geometry_msgs/TwistStamped, not a Twist (nav2's parameter of this name).",
    read_only=True,
)


def declare(
    node: Node,
    parameters: Sequence[Parameter],
    *,
    configured: Callable[[], bool] = lambda: False,
    changed: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> None:
    """Declare ``parameters`` on ``node`` and refuse unfit values, at start and later.

    Args:
        configured: tells whether parameters marked ``when_unconfigured`` are in use.
        changed: is told by name what is taken later (rclpy calls back for that from Iron on).

    Raises:
        rclpy.exceptions.InvalidParameterValueException: a value given at start is out of range or unfit.
        JepaRuntimeError: the report could not be written.
    """
    known = {parameter.name: parameter for parameter in parameters}

    def check(changes: list[RosParameter]) -> SetParametersResult:
        for change in changes:
            parameter = known.get(change.name)
            if parameter is None:
                continue
            reason = parameter.refusal(change.value)
            if not reason and parameter.when_unconfigured and configured():
                reason = (
                    f"{change.name} can be changed only while the node is unconfigured: clean it up first"
                )
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        if node.has_parameter(parameters[-1].name):
            changed({change.name: change.value for change in changes if change.name in known})
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    for parameter in parameters:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
    if REPORT_PATH in parameters and (report := node.get_parameter(REPORT_PATH.name).value):
        check_writable(Path(report))


def values(node: Node, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The present values by name."""
    return {parameter.name: node.get_parameter(parameter.name).value for parameter in parameters}


def require_name(name: str, parameter: str) -> None:
    """Check the name of a topic or a node that a parameter gives.

    Raises:
        JepaRuntimeError: it is none, or that of compressed images.
    """
    _require_raw(name, parameter)
    try:
        validate_topic_name(name)
    except InvalidTopicNameException as error:
        # Below the reason it draws where the name is wrong.
        reason = str(error).splitlines()[0].rstrip(":")
        raise JepaRuntimeError(f"parameter {parameter}: {name!r}: {reason}") from error


def require_relative(topic: str, parameter: str) -> None:
    """Check a topic that a parameter names.

    Raises:
        JepaRuntimeError: it is not a relative name, or that of compressed images.
    """
    _require_raw(topic, parameter)
    if not _RELATIVE_TOPIC.fullmatch(topic):
        raise JepaRuntimeError(
            f"parameter {parameter}: {topic!r} is not a relative topic name such as front/image_raw; remap it"
            " to reach another namespace"
        )


def _require_raw(topic: str, parameter: str) -> None:
    if topic != (raw := topic.removesuffix("/compressed")):
        raise JepaRuntimeError(
            f"parameter {parameter}: {topic!r} has compressed images; name {raw!r}: they are heard with it"
        )
