"""Images of a recorded ROS 2 bag (MCAP or SQLite), and the commands beside them, read without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging import decode, to_rgb
from jepa_runtime.sources.base import Frame, Image, PassiveSource
from jepa_runtime.sources.command_fields import CommandFields
from jepa_runtime.sources.commands import MAX_AGE_S, Commands

_RAW = "sensor_msgs/msg/Image"
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_RATE_SAMPLES = 60
# Its header bears the stamp of the image that was planned on, which is before the command.
_LOGGED_WHEN_EXECUTED = {"jepa_msgs/msg/PlannerStatus"}


class BagSource(PassiveSource):
    """The images of one topic, with the stamps and frame ids they were recorded with.

    Args:
        path: an ``.mcap`` or ``.db3`` file, or a rosbag2 folder.
        topic: which image topic; may be left out where the bag has only one.
        action: the topic of the commands that the robot executed, and which of its numbers are the action:
            ``/cmd_vel:linear.x,angular.z`` (see :mod:`jepa_runtime.sources.command_fields`). A command counts
            from the stamp in its header on, or, where its type has none, from when it was recorded. All of
            them are read when the bag is opened. None: nothing is known about actions.
        max_age_s: how long a command holds if no other follows.

    Attributes:
        commands: the commands; None where no ``action`` was asked for.

    Raises:
        SourceError: not a bag, cut off, no images in it, or several topics to choose from (they are listed);
            no such action, or one that is not made of the same finite numbers throughout.
    """

    def __init__(
        self,
        path: Path,
        *,
        topic: str | None = None,
        action: str | None = None,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self.name = str(path)
        self.commands: Commands | None = None
        self._stamp_ns: int | None = None
        self._store = get_typestore(Stores.ROS2_JAZZY)
        try:
            self._reader = Reader(path)
            self._reader.open()
        # The reader has no common root for what a damaged file makes it raise.
        except Exception as error:
            raise SourceError(
                f"{path}: not a readable bag ({error}); a recording that was cut off must be repaired "
                "first (mcap recover)"
            ) from error
        try:
            self._connections = self._choose(topic)
            self.rate_hz = self._measure_rate()
            if action is not None:
                self.commands = self._read_commands(action, max_age_s)
        except BaseException:
            self.close()
            raise
        self.name = f"{path}?topic={self._connections[0].topic}"

    @property
    def command(self) -> NDArray[np.float32] | None:
        """The command [A] executed from the last frame's stamp on: the last one at or before it."""
        if self.commands is None or self._stamp_ns is None:
            return None
        return self.commands.at(self._stamp_ns)

    def frames(self) -> Iterator[Frame]:
        """The images.

        Raises:
            SourceError: a message cannot be decoded.
        """
        for sequence, (connection, log_ns, raw) in enumerate(self._messages(self._connections)):
            message: Any = self._deserialize(connection, raw, sequence)
            try:
                image = decode(message.data) if connection.msgtype == _COMPRESSED else _convert(message)
            except FrameError as error:
                raise SourceError(f"{self.name}: image {sequence} cannot be used: {error}") from error
            self._stamp_ns = _stamp(message, log_ns)
            yield Frame(image, self._stamp_ns, message.header.frame_id, sequence)

    def close(self) -> None:
        """Close the file."""
        if self._reader.is_open:
            self._reader.close()

    def _choose(self, topic: str | None) -> list[Connection]:
        images = [entry for entry in self._reader.connections if entry.msgtype in (_RAW, _COMPRESSED)]
        topics = sorted({entry.topic for entry in images if entry.msgcount})
        if topic is None and len(topics) == 1:
            topic = topics[0]
        chosen = [entry for entry in images if entry.topic == topic and entry.msgcount]
        if chosen:
            return chosen
        listed = ", ".join(topics)
        if topic is None and topics:
            raise SourceError(f"{self.name}: several image topics, choose one with ?topic=NAME: {listed}")
        if topics:
            raise SourceError(f"{self.name}: no image on topic {topic}; image topics: {listed}")
        raise SourceError(f"{self.name}: no images in this bag; its topics: {self._topics()}")

    def _topics(self) -> str:
        entries = {f"{entry.topic} ({entry.msgtype})" for entry in self._reader.connections if entry.msgcount}
        return ", ".join(sorted(entries)) or "none"

    def _read_commands(self, action: str, max_age_s: float) -> Commands:
        topic, _, listed = action.partition(":")
        connections = [
            entry
            for entry in self._reader.connections
            if entry.topic.lstrip("/") == topic.lstrip("/") and entry.msgcount
        ]
        if not connections:
            raise SourceError(f"{self.name}: no commands on topic {topic}; its topics: {self._topics()}")
        self._learn_types(connections)
        reader: CommandFields | None = None
        stamps: list[int] = []
        values: list[list[float]] = []
        for sequence, (connection, log_ns, raw) in enumerate(self._messages(connections)):
            message: Any = self._deserialize(connection, raw, sequence)
            try:
                if reader is None:
                    reader = CommandFields(connection.msgtype, listed.split(",") if listed else (), message)
                values.append(reader.read(message))
            except ValueError as error:
                raise SourceError(f"{self.name}: command {sequence} on {topic}: {error}") from error
            executed = connection.msgtype in _LOGGED_WHEN_EXECUTED
            stamps.append(log_ns if executed else _stamp(message, log_ns))
        assert reader is not None
        try:
            return Commands(
                reader.names, reader.units, np.array(stamps), np.array(values), max_age_s=max_age_s
            )
        except ValueError as error:
            raise SourceError(f"{self.name}: topic {topic}: {error}") from error

    def _learn_types(self, connections: list[Connection]) -> None:
        """A bag brings the definitions of its messages along: those that ROS 2 does not have are learned."""
        for entry in connections:
            if entry.msgtype in self._store.fielddefs or entry.msgdef.format != MessageDefinitionFormat.MSG:
                continue
            types = get_types_from_msg(entry.msgdef.data, entry.msgtype)
            self._store.register(
                {name: fields for name, fields in types.items() if name not in self._store.fielddefs}
            )

    def _messages(self, connections: list[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        try:
            yield from self._reader.messages(connections)
        except Exception as error:
            raise SourceError(f"{self.name}: the bag is damaged: {error}") from error

    def _measure_rate(self) -> float | None:
        stamps = [
            stamp
            for (_, stamp, _), _ in zip(self._messages(self._connections), range(_RATE_SAMPLES), strict=False)
        ]
        periods = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
        return 1e9 / median(periods) if periods else None

    def _deserialize(self, connection: Connection, raw: bytes, sequence: int) -> object:
        try:
            return self._store.deserialize_cdr(raw, connection.msgtype)
        except Exception as error:
            raise SourceError(
                f"{self.name}: message {sequence} is not a {connection.msgtype}: {error}"
            ) from error


def _stamp(message: Any, log_ns: int) -> int:
    """The stamp in a message's header; where there is none, when it was recorded."""
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    return log_ns if stamp is None else stamp.sec * 1_000_000_000 + stamp.nanosec or log_ns


def _convert(message: Any) -> Image:
    return to_rgb(message.data, message.encoding, message.width, message.height, message.step)
