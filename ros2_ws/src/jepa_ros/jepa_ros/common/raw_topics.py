"""Topics as they come: found by discovery, taken without being deserialised, as cheap as recording can be."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Collection, Iterable
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

# Encapsulation (4 bytes, the second tells the byte order), then the header's stamp: int32 seconds, uint32
# nanoseconds.
_STAMP_AT = 4
_DEPTH = 100

Offer = tuple[ReliabilityPolicy, DurabilityPolicy]


def message_class(type_name: str) -> type[Any]:
    """The Python class of ``package/msg/Name``.

    Raises:
        ImportError, AttributeError: the package is not installed here.
    """
    package, kind, name = type_name.split("/")
    found: type[Any] = getattr(importlib.import_module(f"{package}.{kind}"), name)
    return found


def begins_with_header(message: type[Any]) -> bool:
    """Whether a std_msgs/Header is the first field."""
    fields: dict[str, str] = message.get_fields_and_field_types()
    return next(iter(fields.values()), "") == "std_msgs/Header"


def stamp_ns(cdr: bytes) -> int:
    """The header's stamp in a serialised message that begins with one."""
    order = "<" if cdr[1] & 1 else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", cdr, _STAMP_AT)
    return int(sec) * 1_000_000_000 + int(nanosec)


def offers(publishers: Iterable[TopicEndpointInfo]) -> set[Offer]:
    """The distinct offers of ``publishers``: what of its quality of service a subscription has to match."""
    return {(info.qos_profile.reliability, info.qos_profile.durability) for info in publishers}


def matching_qos(offered: Collection[Offer]) -> QoSProfile:
    """The strictest quality of service with which a subscription hears all who made these offers."""
    reliable = all(reliability == ReliabilityPolicy.RELIABLE for reliability, _ in offered)
    latched = all(durability == DurabilityPolicy.TRANSIENT_LOCAL for _, durability in offered)
    return QoSProfile(
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
