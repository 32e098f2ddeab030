"""A ring buffer of recent messages, limited in bytes and in time, which is that of their stamps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

# Consecutive entries with outlying stamps that mean that the clock was set: half a second of images.
_MAX_OUTLIERS = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A message to record.

    Attributes:
        topic: The topic.
        type_name: See :func:`jepa_runtime.ros_messages.definitions.build`.
        fields: See :func:`jepa_runtime.ros_messages.definitions.build`.
        stamp_ns: The log time.
        size: Approximate size in bytes.
        latched: Whether the message is valid until the next one of its topic, like a command.
    """

    topic: str
    type_name: str
    fields: dict[str, Any]
    stamp_ns: int
    size: int = 100
    latched: bool = False


class RingBuffer:
    """Entries of the last ``span_ns`` before the newest one, at most ``max_bytes``; the oldest are dropped.

    The last dropped entry of each latched topic is retained.

    An entry whose stamp differs by more than ``span_ns`` from the newest one is an outlier: it is stored with
    the time of the newest one, and does not advance the buffer. Several consecutive outliers mean that the
    clock was set, or that messages continue after a pause: earlier entries are dropped, and latched entries
    remain valid from then on.
    """

    def __init__(self, span_ns: int, max_bytes: int) -> None:
        self._span_ns, self._max_bytes = span_ns, max_bytes
        # Each with its effective time.
        self._entries: deque[tuple[int, Entry]] = deque()
        self._latched: dict[str, Entry] = {}
        self._bytes, self._newest_ns = 0, 0
        # The number of consecutive outliers.
        self._outliers = 0

    def add(self, entry: Entry) -> int:
        """Add an entry and return its effective time in ns; for outliers, that is the time of the newest."""
        is_outlier = bool(self._entries) and abs(entry.stamp_ns - self._newest_ns) > self._span_ns
        self._outliers = self._outliers + 1 if is_outlier else 0
        if self._outliers >= _MAX_OUTLIERS:
            self._restart_at(entry.stamp_ns)
        elif not is_outlier:
            self._newest_ns = max(self._newest_ns, entry.stamp_ns) if self._entries else entry.stamp_ns
        time_ns = self._newest_ns if self._outliers else entry.stamp_ns
        self._entries.append((time_ns, entry))
        self._bytes += entry.size
        oldest_ns = self._newest_ns - self._span_ns
        while self._entries and (self._entries[0][0] < oldest_ns or self._bytes > self._max_bytes):
            self._drop_oldest()
        return time_ns

    def entries(self) -> list[Entry]:
        """Return all entries in the order of their stamps."""
        found = [*self._latched.values(), *(entry for _, entry in self._entries)]
        return sorted(found, key=lambda entry: entry.stamp_ns)

    def _restart_at(self, stamp_ns: int) -> None:
        """Drop all entries but those with stamps near this one, after the clock was set."""
        near = [each for _, each in self._entries if abs(each.stamp_ns - stamp_ns) <= self._span_ns]
        while self._entries:
            self._drop_oldest()
        first_ns = min([stamp_ns, *(each.stamp_ns for each in near)])
        self._latched = {topic: replace(each, stamp_ns=first_ns) for topic, each in self._latched.items()}
        self._newest_ns, self._outliers = max([stamp_ns, *(each.stamp_ns for each in near)]), 0
        self._entries.extend((each.stamp_ns, each) for each in near)
        self._bytes = sum(each.size for each in near)

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popleft()
        self._bytes -= entry.size
        if entry.latched:
            self._latched[entry.topic] = entry
