"""Images of a recorded ROS 2 bag (MCAP or SQLite), read without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from jepa_runtime.errors import FrameError, SourceError
from jepa_runtime.imaging import decode, to_rgb
from jepa_runtime.sources.base import Frame, Image, PassiveSource

_RAW = "sensor_msgs/msg/Image"
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_RATE_SAMPLES = 60


class BagSource(PassiveSource):
    """The images of one topic, with the stamps and frame ids they were recorded with.

    Args:
        path: an ``.mcap`` or ``.db3`` file, or a rosbag2 folder.
        topic: which image topic; may be left out where the bag has only one.

    Raises:
        SourceError: not a bag, cut off, no images in it, or several topics to choose from (they are listed).
    """

    def __init__(self, path: Path, *, topic: str | None = None) -> None:
        self.name = str(path)
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
        except BaseException:
            self.close()
            raise
        self.name = f"{path}?topic={self._connections[0].topic}"

    def frames(self) -> Iterator[Frame]:
        """The images.

        Raises:
            SourceError: a message cannot be decoded.
        """
        for sequence, (connection, log_ns, raw) in enumerate(self._messages()):
            message: Any = self._deserialize(connection, raw, sequence)
            try:
                image = decode(message.data) if connection.msgtype == _COMPRESSED else _convert(message)
            except FrameError as error:
                raise SourceError(f"{self.name}: image {sequence} cannot be used: {error}") from error
            stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            yield Frame(image, stamp_ns or log_ns, message.header.frame_id, sequence)

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
        others = ", ".join(sorted({f"{entry.topic} ({entry.msgtype})" for entry in self._reader.connections}))
        raise SourceError(f"{self.name}: no images in this bag; its topics: {others or 'none'}")

    def _messages(self) -> Iterator[tuple[Connection, int, bytes]]:
        try:
            yield from self._reader.messages(self._connections)
        except Exception as error:
            raise SourceError(f"{self.name}: the bag is damaged: {error}") from error

    def _measure_rate(self) -> float | None:
        stamps = [stamp for (_, stamp, _), _ in zip(self._messages(), range(_RATE_SAMPLES), strict=False)]
        periods = [later - earlier for earlier, later in pairwise(stamps) if later > earlier]
        return 1e9 / median(periods) if periods else None

    def _deserialize(self, connection: Connection, raw: bytes, sequence: int) -> object:
        try:
            return self._store.deserialize_cdr(raw, connection.msgtype)
        except Exception as error:
            raise SourceError(
                f"{self.name}: message {sequence} is not a {connection.msgtype}: {error}"
            ) from error


def _convert(message: Any) -> Image:
    return to_rgb(message.data, message.encoding, message.width, message.height, message.step)
