"""The messages of a bag, decoded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from jepa_runtime.recording.definitions import definition
from jepa_runtime.sources.bag_file import BagFile


class Bag:
    """A bag, open for reading; see :class:`~jepa_runtime.sources.bag_file.BagFile`.

    Raises:
        SourceError: it is none, or cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = BagFile(path, definition)

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def topics(self, *type_names: str) -> list[str]:
        """Topics that have messages of one of these types (``package/msg/Name``), in alphabetical order."""
        return sorted({entry.topic for entry in self._file.connections if entry.msgtype in type_names})

    def count(self, topics: Collection[str | None]) -> int:
        """How many messages these topics have together; None: one that the bag does not have."""
        return sum(entry.msgcount for entry in self._file.connections if entry.topic in topics)

    def messages(self, topics: Collection[str | None]) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of recording [ns] and content of each message, in the order of recording.

        Raises:
            SourceError: the bag is damaged, or a message is not what its topic says.
        """
        connections = [entry for entry in self._file.connections if entry.topic in topics]
        for sequence, (entry, log_ns, data) in enumerate(self._file.messages(connections)):
            yield entry.topic, log_ns, self._file.deserialize(entry, data, sequence)

    def decode(self, topic: str, data: bytes, sequence: int) -> Any:
        """A message that was read from ``topic`` in another way; ``sequence`` names it in errors.

        Raises:
            SourceError: it is not what its topic says.
        """
        connection = next(entry for entry in self._file.connections if entry.topic == topic)
        return self._file.deserialize(connection, data, sequence)
