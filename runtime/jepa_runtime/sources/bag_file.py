"""Access to the messages of a recorded ROS 2 bag (MCAP or SQLite), without ROS."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from jepa_runtime.errors import SourceError
from jepa_runtime.ros_messages.definitions import definition

RAW_IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (RAW_IMAGE, COMPRESSED_IMAGE)


class BagFile:
    """An open bag: an ``.mcap`` or ``.db3`` file, or a rosbag2 folder.

    Raises:
        SourceError: The path does not exist, is not a bag, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder", code="source.not_found")
        self.path = path
        self._store = get_typestore(Stores.ROS2_JAZZY)
        try:
            self._reader = Reader(path)
            self._reader.open()
        # The errors that the reader raises for damaged files have no common base class.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise SourceError(
                f"{path}: not a readable bag ({reason}): repair a truncated recording with mcap recover",
                code="source.bag_damaged",
            ) from error

    def __enter__(self) -> BagFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> list[Connection]:
        """The connections that have messages; a topic with several publishers has several."""
        return [entry for entry in self._reader.connections if entry.msgcount]

    def connections_on(self, topics: Collection[str | None]) -> list[Connection]:
        """Return the connections of these topics, with or without a leading slash; None is ignored."""
        names = {topic.lstrip("/") for topic in topics if topic is not None}
        return [entry for entry in self.connections if entry.topic.lstrip("/") in names]

    def topics(self, *type_names: str) -> list[str]:
        """Return the sorted topics that have messages of one of these types (``package/msg/Name``)."""
        return sorted({entry.topic for entry in self.connections if entry.msgtype in type_names})

    def describe_topics(self) -> str:
        """Return every topic with its type, for messages."""
        entries = {f"{entry.topic} ({entry.msgtype})" for entry in self.connections}
        return ", ".join(sorted(entries)) or "none"

    def messages(self, connections: Sequence[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """Yield the messages of ``connections`` in recorded order, each with its recording time [ns].

        Raises:
            SourceError: The bag is damaged.
        """
        if not connections:
            return
        try:
            yield from self._reader.messages(connections)
        except Exception as error:
            raise SourceError(
                f"{self.path}: the bag is damaged: {error}", code="source.bag_damaged"
            ) from error

    def read(self, topics: Collection[str | None]) -> Iterator[tuple[str, int, Any]]:
        """Yield topic, recording time [ns] and content of each message of ``topics``, in recorded order.

        Raises:
            SourceError: The bag is damaged, or a message is not of the type of its topic.
        """
        for sequence, (connection, log_ns, raw) in enumerate(self.messages(self.connections_on(topics))):
            yield connection.topic, log_ns, self.deserialize(connection, raw, sequence)

    def deserialize(self, connection: Connection, raw: bytes, sequence: int) -> Any:
        """Deserialize a message.

        Args:
            connection: The connection of the message.
            raw: The serialized message.
            sequence: The number of the message, for errors.

        Raises:
            SourceError: The message is not of the type of its topic, or that type is unknown.
        """
        try:
            self._learn_type(connection)
            return self._store.deserialize_cdr(raw, connection.msgtype)
        except Exception as error:
            raise SourceError(
                f"{self.path}: message {sequence} is not a {connection.msgtype}: {error}",
                code="source.message_invalid",
            ) from error

    def close(self) -> None:
        """Close the file. May be called again."""
        if self._reader.is_open:
            self._reader.close()

    def _learn_type(self, connection: Connection) -> None:
        """Register a type that ROS 2 does not define, from the bag or, for ours, from this package.

        Bags of ROS 2 Humble contain no definitions.
        """
        known, name = self._store.fielddefs, connection.msgtype
        if name in known:
            return
        described = connection.msgdef.format == MessageDefinitionFormat.MSG
        text = connection.msgdef.data if described else definition(name)
        types = get_types_from_msg(text, name)
        self._store.register({name: fields for name, fields in types.items() if name not in known})


def message_stamp_ns(message: Any, log_ns: int) -> int:
    """Return the stamp in the header of a message [ns], or without one its recording time."""
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    return log_ns if stamp is None else stamp.sec * 1_000_000_000 + stamp.nanosec or log_ns


def is_camera_topic(connection: Connection) -> bool:
    """Return whether a topic holds camera images, and not images of goals."""
    return connection.msgtype in IMAGE_TYPES and not is_goal_topic(connection)


def is_goal_topic(connection: Connection) -> bool:
    """Return whether a topic holds images of goals."""
    return connection.msgtype == RAW_IMAGE and connection.topic.rpartition("/")[2] == "goal_image"
