"""Declaration and validation of node parameters."""

from __future__ import annotations

import difflib
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
from jepa_runtime.util import OdometryHistory, check_writable

_RELATIVE_TOPIC = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)

# rclpy itself declares the parameters with this prefix, with the topic that they are for.
_QOS_OVERRIDES = "qos_overrides."

Value = bool | int | float | str | tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Describe one parameter of a node.

    Attributes:
        name: Name as in the YAML file.
        default: Default value. Its type is the type of the parameter.
        description: Text that ``ros2 param describe`` prints, with the unit.
        low: Inclusive lower limit of a number, or of each number of an array.
        high: Inclusive upper limit.
        choices: The only values that a string may take.
        read_only: Whether the value is fixed after the start.
        when_unconfigured: Whether changes are rejected once the lifecycle node is configured.
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
        """Return the descriptor that ``ros2 param describe`` prints."""
        constraints = []
        if self.choices:
            constraints.append("one of: " + ", ".join(self.choices))
        if self.when_unconfigured:
            constraints.append("can be changed only while the node is unconfigured")
        if isinstance(self.default, tuple) and self.low is not None:
            # ROS 2 has no ranges for arrays: :meth:`validate` checks them.
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

    def validate(self, value: Any) -> str:
        """Return why ``value`` is invalid, or an empty string."""
        if value is None:
            return f"{self.name} has no value or is an empty list: omit it to use the default"
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
    description="File to which the node writes its counters as JSON when it stops. Empty: no file.",
    read_only=True,
)

ODOMETRY_TIMEOUT = Parameter(
    name="odometry_timeout_s",
    default=OdometryHistory().timeout_s,
    description="Longest time from the newest odometry to an image, and largest difference of its stamps "
    "from this clock, at which the pose is known [s].",
    low=0.05,
    high=10.0,
)
STAMPED_CMD_VEL = Parameter(
    name="enable_stamped_cmd_vel",
    default=False,
    description="Whether cmd_vel is a geometry_msgs/TwistStamped instead of a Twist, as in nav2.",
    read_only=True,
)


def declare_parameters(
    node: Node,
    parameters: Sequence[Parameter],
    *,
    is_configured: Callable[[], bool] = lambda: False,
    on_change: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> None:
    """Declare ``parameters`` on ``node`` and reject invalid values at startup and later.

    Args:
        node: Node that owns the parameters.
        parameters: Parameters to declare.
        is_configured: Returns whether parameters marked ``when_unconfigured`` are in use.
        on_change: Receives accepted changes by name (rclpy has a callback for that only from Iron on).

    Raises:
        rclpy.exceptions.InvalidParameterValueException: An initial value is out of range or invalid.
        JepaRuntimeError: The report file cannot be written.
    """
    known = {parameter.name: parameter for parameter in parameters}

    def check(changes: list[RosParameter]) -> SetParametersResult:
        for change in changes:
            parameter = known.get(change.name)
            if parameter is None:
                continue
            reason = parameter.validate(change.value)
            if not reason and parameter.when_unconfigured and is_configured():
                reason = (
                    f"{change.name} can be changed only while the node is unconfigured: call cleanup first"
                )
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        if node.has_parameter(parameters[-1].name):
            on_change({change.name: change.value for change in changes if change.name in known})
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    for parameter in parameters:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())
    _warn_of_unknown_overrides(node)
    if REPORT_PATH in parameters and (report := node.get_parameter(REPORT_PATH.name).value):
        check_writable(Path(report))


def _warn_of_unknown_overrides(node: Node) -> None:
    """Log each given parameter that no node of this package has, such as a misspelled one."""
    # rclpy has no public accessor. A section of a file for all nodes gives this node the others' parameters.
    given: Mapping[str, RosParameter] = node._parameter_overrides
    unknown = [name for name in given if not node.has_parameter(name) and not name.startswith(_QOS_OVERRIDES)]
    if not unknown:
        return
    from jepa_ros.common.all_parameters import NAMES

    for name in unknown:
        if name not in NAMES:
            declared = [each for each in node._parameters if not each.startswith(_QOS_OVERRIDES)]
            (nearest,) = difflib.get_close_matches(name, declared, n=1, cutoff=0.0)
            node.get_logger().warning(
                f"parameter {name} is ignored: there is no such parameter; the nearest name is {nearest}"
            )


def parameter_values(node: Node, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the current values by name."""
    return {parameter.name: node.get_parameter(parameter.name).value for parameter in parameters}


def require_name(name: str, parameter: str) -> None:
    """Validate the name of a topic or a node that a parameter contains.

    Raises:
        JepaRuntimeError: The name is invalid, or names a topic of compressed images.
    """
    _require_raw(name, parameter)
    try:
        validate_topic_name(name)
    except InvalidTopicNameException as error:
        # The following lines of the message mark the position of the error.
        reason = str(error).splitlines()[0].rstrip(":")
        raise JepaRuntimeError(
            f"parameter {parameter}: invalid name {name!r}: {reason}", code="node.invalid_parameter"
        ) from error


def require_relative(topic: str, parameter: str) -> None:
    """Validate a relative topic name that a parameter contains.

    Raises:
        JepaRuntimeError: The name is not relative, or names a topic of compressed images.
    """
    _require_raw(topic, parameter)
    if not _RELATIVE_TOPIC.fullmatch(topic):
        raise JepaRuntimeError(
            f"parameter {parameter}: {topic!r} is not a relative topic name such as front/image_raw. Use a"
            " remapping to reach another namespace",
            code="node.invalid_parameter",
        )


def _require_raw(topic: str, parameter: str) -> None:
    if topic != (raw := topic.removesuffix("/compressed")):
        raise JepaRuntimeError(
            f"parameter {parameter}: {topic!r} is a topic of compressed images. Set it to {raw!r}: the node"
            " subscribes to both",
            code="node.invalid_parameter",
        )
