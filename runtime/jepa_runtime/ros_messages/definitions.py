"""Message definitions of ROS 2 Jazzy, and of jepa_msgs from the files of its ROS package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from jepa_runtime.errors import RecordingError


@cache
def typestore() -> Typestore:
    """Return the store of all message types of recordings. It is shared: do not register types in it."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in files("jepa_runtime.ros_messages.msg").iterdir():
        if file.name.endswith(".msg"):
            name = f"jepa_msgs/msg/{file.name.removesuffix('.msg')}"
            store.register(get_types_from_msg(file.read_text(encoding="utf-8"), name))
    return store


@cache
def definition(type_name: str) -> str:
    """Return the ``ros2msg`` definition of ``type_name`` (``package/msg/Name``) and its dependencies.

    Raises:
        RecordingError: The type is unknown.
    """
    _require(type_name)
    return typestore().generate_msgdef(type_name, ros_version=2)[0]


@cache
def type_hash(type_name: str) -> str:
    """Return the hash (RIHS01) that identifies the version of a type in ROS 2.

    Raises:
        RecordingError: The type is unknown.
    """
    _require(type_name)
    return typestore().hash_rihs01(type_name)


def prepare(*type_names: str) -> None:
    """Generate the serialization code of these types now.

    Otherwise it delays the first message by 5 to 15 ms per type.

    Raises:
        RecordingError: A type is unknown.
    """
    for type_name in type_names:
        _require(type_name)
        typestore().get_msgdef(type_name)


def build(type_name: str, fields: Mapping[str, Any]) -> Any:
    """Return a rosbags message from plain ``fields``; nested messages are mappings.

    Raises:
        RecordingError: The type is unknown, or ``fields`` differ from its fields.
    """
    _require(type_name)
    store = typestore()
    described = {name: description for name, description in store.fielddefs[type_name][1]}
    if described.keys() != fields.keys():
        raise RecordingError(
            f"{type_name} has the fields {', '.join(described)}, got {', '.join(fields) or 'none'}",
            code="recording.message_fields",
        )
    return store.types[type_name](**{name: _value(described[name], value) for name, value in fields.items()})


def _value(description: Any, value: Any) -> Any:
    kind, detail = description
    if kind == Nodetype.NAME:
        return build(detail, value)
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE) and detail[0][0] == Nodetype.NAME:
        return [build(detail[0][1], entry) for entry in value]
    return value


def _require(type_name: str) -> None:
    if type_name not in typestore().fielddefs:
        raise RecordingError(
            f"unknown message type {type_name}: known are those of ROS 2 Jazzy and jepa_msgs",
            code="recording.unknown_message_type",
        )
