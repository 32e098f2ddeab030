"""The messages of a bag (MCAP, SQLite or a rosbag2 folder), decoded by the definitions that it brings along.

A bag may be older or newer than this program: what its messages consist of is what it says itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader

from jepa_runtime.errors import SourceError
from jepa_runtime.recording.definitions import typestore


class Bag:
    """A bag, open for reading.

    Raises:
        SourceError: it is none, or cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = AnyReader([path], default_typestore=typestore())
            self._reader.open()
        # The reader has no common root for what a damaged file makes it raise.
        except Exception as error:
            raise SourceError(
                f"{path}: not a readable bag ({error}); a recording that was cut off must be repaired "
                "first (mcap recover)"
            ) from error

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def topics(self, *type_names: str) -> list[str]:
        """Topics that have messages of one of these types (``package/msg/Name``), in alphabetical order."""
        return sorted(
            {
                entry.topic
                for entry in self._reader.connections
                if entry.msgtype in type_names and entry.msgcount
            }
        )

    def count(self, topics: Collection[str]) -> int:
        """How many messages these topics have together."""
        return sum(entry.msgcount for entry in self._reader.connections if entry.topic in topics)

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of recording [ns] and content of each message, in the order of recording.

        Raises:
            SourceError: the bag is damaged, or a message is not what its topic says.
        """
        connections = [entry for entry in self._reader.connections if entry.topic in topics]
        if not connections:
            return
        try:
            for entry, log_ns, data in self._reader.messages(connections):
                yield entry.topic, log_ns, self._reader.deserialize(data, entry.msgtype)
        except GeneratorExit:
            raise
        except Exception as error:
            raise SourceError(f"{self.path}: the bag is damaged: {error}") from error

    def decode(self, data: bytes, type_name: str) -> Any:
        """A message of this bag from its CDR.

        Raises:
            SourceError: it is not of that type.
        """
        try:
            return self._reader.deserialize(data, type_name)
        except Exception as error:
            raise SourceError(f"{self.path}: a message is not a {type_name}: {error}") from error
