"""A recorded ROS 2 bag (MCAP or SQLite) as messages, read without ROS."""

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
        SourceError: not there, not a bag, or cut off.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder")
        self.path = path
        self._store = get_typestore(Stores.ROS2_JAZZY)
        try:
            self._reader = Reader(path)
            self._reader.open()
        # The reader has no common root for what a damaged file makes it raise.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise SourceError(
                f"{path}: not a readable bag ({reason}); a recording that was cut off must be repaired first "
                "(mcap recover)"
            ) from error

    def __enter__(self) -> BagFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> list[Connection]:
        """The topics that have messages, several connections of one where several published it."""
        return [entry for entry in self._reader.connections if entry.msgcount]

    def on(self, topics: Collection[str | None]) -> list[Connection]:
        """The connections of these topics, with or without a slash before them; None: one that the bag does
        not have."""
        names = {topic.lstrip("/") for topic in topics if topic is not None}
        return [entry for entry in self.connections if entry.topic.lstrip("/") in names]

    def topics(self, *type_names: str) -> list[str]:
        """Topics that have messages of one of these types (``package/msg/Name``), in alphabetical order."""
        return sorted({entry.topic for entry in self.connections if entry.msgtype in type_names})

    def listed(self) -> str:
        """For people: every topic with its type."""
        entries = {f"{entry.topic} ({entry.msgtype})" for entry in self.connections}
        return ", ".join(sorted(entries)) or "none"

    def messages(self, connections: Sequence[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        """The messages of ``connections`` in the order in which they were recorded, each with the moment at
        which it was [ns].

        Raises:
            SourceError: the bag is damaged there.
        """
        if not connections:
            return
        try:
            yield from self._reader.messages(connections)
        except Exception as error:
            raise SourceError(f"{self.path}: the bag is damaged: {error}") from error

    def read(self, topics: Collection[str | None]) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of recording [ns] and content of each message of ``topics``, in the order of recording.

        Raises:
            SourceError: the bag is damaged, or a message is not what its topic says.
        """
        for sequence, (connection, log_ns, raw) in enumerate(self.messages(self.on(topics))):
            yield connection.topic, log_ns, self.deserialize(connection, raw, sequence)

    def deserialize(self, connection: Connection, raw: bytes, sequence: int) -> Any:
        """A message; ``sequence`` names it in errors.

        Raises:
            SourceError: it is none of its topic's type, or nobody knows that.
        """
        try:
            self._learn_type(connection)
            return self._store.deserialize_cdr(raw, connection.msgtype)
        except Exception as error:
            raise SourceError(
                f"{self.path}: message {sequence} is not a {connection.msgtype}: {error}"
            ) from error

    def close(self) -> None:
        """Close the file. May be called again."""
        if self._reader.is_open:
            self._reader.close()

    def _learn_type(self, connection: Connection) -> None:
        """A type that ROS 2 does not have is learned from the bag, or is one of ours: bags of ROS 2 Humble
        describe none."""
        known, name = self._store.fielddefs, connection.msgtype
        if name in known:
            return
        described = connection.msgdef.format == MessageDefinitionFormat.MSG
        text = connection.msgdef.data if described else definition(name)
        types = get_types_from_msg(text, name)
        self._store.register({name: fields for name, fields in types.items() if name not in known})


def stamp_of(message: Any, log_ns: int) -> int:
    """The stamp in a message's header [ns]; where there is none, when it was recorded."""
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    return log_ns if stamp is None else stamp.sec * 1_000_000_000 + stamp.nanosec or log_ns


def is_camera(connection: Connection) -> bool:
    """Whether a topic holds what a camera saw, and not what it should see."""
    return connection.msgtype in IMAGE_TYPES and not is_goal(connection)


def is_goal(connection: Connection) -> bool:
    """Whether a topic holds images of goals."""
    return connection.msgtype == RAW_IMAGE and connection.topic.rpartition("/")[2] == "goal_image"
