"""Discovered topics whose messages are received in serialized form, at the cost of a recorder."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Collection, Iterable
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

# Encapsulation header (4 bytes, the second is the byte order), then the stamp of the message header: int32
# seconds, uint32 nanoseconds.
_STAMP_AT = 4
_DEPTH = 100

OfferedQos = tuple[ReliabilityPolicy, DurabilityPolicy]


def message_class(type_name: str) -> type[Any]:
    """Return the Python class of ``package/msg/Name``.

    Raises:
        ImportError: The package is not installed.
        AttributeError: The package has no such message.
    """
    package, kind, name = type_name.split("/")
    found: type[Any] = getattr(importlib.import_module(f"{package}.{kind}"), name)
    return found


def begins_with_header(message: type[Any]) -> bool:
    """Return whether the first field is a std_msgs/Header."""
    fields: dict[str, str] = message.get_fields_and_field_types()
    return next(iter(fields.values()), "") == "std_msgs/Header"


def stamp_ns(cdr: bytes) -> int:
    """Return the header stamp [ns] of a serialized message that begins with a header."""
    order = "<" if cdr[1] & 1 else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", cdr, _STAMP_AT)
    return int(sec) * 1_000_000_000 + int(nanosec)


def offered_qos(publishers: Iterable[TopicEndpointInfo]) -> set[OfferedQos]:
    """Return the distinct reliability and durability offers that a subscription has to match."""
    return {(info.qos_profile.reliability, info.qos_profile.durability) for info in publishers}


def matching_qos(offered: Collection[OfferedQos]) -> QoSProfile:
    """Return the strictest profile of a subscription that is compatible with all offers."""
    reliable = all(reliability == ReliabilityPolicy.RELIABLE for reliability, _ in offered)
    latched = all(durability == DurabilityPolicy.TRANSIENT_LOCAL for _, durability in offered)
    return QoSProfile(
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
