"""What was lately: messages of the last seconds, bounded in time and bytes. Pure: time is what stamps say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """A message to be recorded.

    Attributes:
        topic, type_name, fields: see :func:`jepa_runtime.definitions.build`.
        stamp_ns: when it is logged.
        size: about how many bytes it takes.
        lasting: what it says holds until the next one of its topic, as a command does.
    """

    topic: str
    type_name: str
    fields: dict[str, Any]
    stamp_ns: int
    size: int = 100
    lasting: bool = False


class Ring:
    """Entries of the last ``span_ns`` before the newest, of ``max_bytes`` at most; the oldest give way. Of
    what lasts, the last one before that is kept too.

    Time set back by more than ``span_ns`` empties it: what was belongs to another course of events. What
    lasts is still in force, and counts from then on.
    """

    def __init__(self, span_ns: int, max_bytes: int) -> None:
        self._span_ns, self._max_bytes = span_ns, max_bytes
        self._entries: deque[Entry] = deque()
        self._held: dict[str, Entry] = {}
        self._bytes, self._newest_ns = 0, 0

    def add(self, entry: Entry) -> None:
        """The newest entry."""
        if entry.stamp_ns < self._newest_ns - self._span_ns:
            self._newest_ns = 0
            while self._entries:
                self._drop_oldest()
            self._held = {topic: replace(each, stamp_ns=entry.stamp_ns) for topic, each in self._held.items()}
        self._newest_ns = max(self._newest_ns, entry.stamp_ns)
        self._entries.append(entry)
        self._bytes += entry.size
        oldest_ns = self._newest_ns - self._span_ns
        while self._entries and (self._entries[0].stamp_ns < oldest_ns or self._bytes > self._max_bytes):
            self._drop_oldest()

    def entries(self) -> list[Entry]:
        """All that it holds, in the order of time."""
        return sorted([*self._held.values(), *self._entries], key=lambda entry: entry.stamp_ns)

    def _drop_oldest(self) -> None:
        entry = self._entries.popleft()
        self._bytes -= entry.size
        if entry.lasting:
            self._held[entry.topic] = entry
