"""Copy an MCAP file and add messages; copied messages keep their bytes and type definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcap.records import Channel, Message, Schema

from jepa_runtime.recording.mcap_writer import RosWriter, complete_file, create_partial
from jepa_runtime.ros_messages.definitions import typestore


class McapCopy:
    """A context manager that writes the copy, whose name has the suffix ``.partial`` until it is complete.

    Raises:
        RecordingError: The file cannot be written, or exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial, self._file = create_partial(path)
        self._writer = RosWriter(self._file)
        self._schemas: dict[int, int] = {}
        self._channels: dict[int, int] = {}

    def copy(self, schema: Schema, channel: Channel, message: Message) -> None:
        """Copy a message with its channel and schema."""
        if schema.id not in self._schemas:
            self._schemas[schema.id] = self._writer.register_schema(schema.name, schema.encoding, schema.data)
        if channel.id not in self._channels:
            self._channels[channel.id] = self._writer.register_channel(
                channel.topic, channel.message_encoding, self._schemas[schema.id], dict(channel.metadata)
            )
        self._writer.add_message(
            self._channels[channel.id], message.log_time, message.data, message.publish_time, message.sequence
        )

    def add(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Add a rosbags message on a topic that the copied file does not have."""
        name = message.__msgtype__
        self._writer.add(topic, name, typestore().serialize_cdr(message, name), stamp_ns)

    def __enter__(self) -> McapCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._file:
                if kind is None:
                    self._writer.finish()  # type: ignore[no-untyped-call]
            if kind is None:
                complete_file(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)
