"""Conversions between messages and arrays.

Array fields are filled from ``array.array``: rclpy rejects bytes where it checks field types, and assigning
an ndarray or a list is up to a thousand times slower.
"""

from __future__ import annotations

import array
from typing import Any, TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from jepa_runtime.recording import messages

Message = TypeVar("Message")

_NS_PER_S = 1_000_000_000
# Keyed by the type itself: looking up its name takes longer than everything else.
_TYPE_CODES = {np.dtype(code): code for code in "BIQqfd"}


def fill(message: Message, fields: messages.Fields) -> Message:
    """Assign nested ``fields`` (see :mod:`jepa_runtime.recording.messages`) to ``message`` and return it."""
    for name, value in fields.items():
        if isinstance(value, dict):
            fill(getattr(message, name), value)
        else:
            setattr(message, name, to_array_field(value) if isinstance(value, np.ndarray) else value)
    return message


def to_array_field(values: NDArray[Any]) -> array.array[Any]:
    """Return ``values``, flattened, as an array that a field of the same element type accepts.

    No copy is made per element.
    """
    field = array.array(_TYPE_CODES[values.dtype])
    field.frombytes(values.ravel().view(np.uint8).data)
    return field


def to_image(rgb: NDArray[np.uint8], *, stamp_ns: int, frame_id: str) -> Image:
    """Return an rgb8 Image of ``rgb`` [h, w, 3]."""
    height, width, _ = rgb.shape
    fields = {
        "header": messages.header(stamp_ns, frame_id),
        "height": height,
        "width": width,
        "encoding": "rgb8",
        "step": width * 3,
        "data": rgb,
    }
    return fill(Image(), fields)


def to_time(stamp_ns: int) -> Time:
    """Return ``stamp_ns`` as a Time message."""
    return Time(sec=stamp_ns // _NS_PER_S, nanosec=stamp_ns % _NS_PER_S)


def from_time(message: Time) -> int:
    """Return a Time message in nanoseconds."""
    return messages.from_time(message)


class TwistActions:
    """Map the action of a model to fields of a Twist.

    Args:
        names: Action names of the model, each a path in geometry_msgs/Twist such as ``linear.x``.

    Raises:
        ValueError: A name is not a field of Twist.
    """

    def __init__(self, names: list[str] | tuple[str, ...]) -> None:
        fields = {f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz"}
        unknown = [name for name in names if name not in fields]
        if unknown:
            raise ValueError(
                f"action names {unknown} are not fields of geometry_msgs/Twist ({sorted(fields)})"
            )
        self._paths = [tuple(name.split(".")) for name in names]

    def from_twist(self, message: Twist) -> NDArray[np.float32]:
        """Return the action [A] in ``message``."""
        return np.array(
            [getattr(getattr(message, part), axis) for part, axis in self._paths], dtype=np.float32
        )

    def to_twist(self, action: NDArray[Any]) -> Twist:
        """Return a Twist with ``action`` [A] in its fields and zero elsewhere."""
        message = Twist()
        for (part, axis), value in zip(self._paths, action, strict=True):
            setattr(getattr(message, part), axis, float(value))
        return message
