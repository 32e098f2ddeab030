"""What was lately: messages of the last seconds, bounded in time and bytes. Pure: time is what stamps say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

# Entries in a row with stamps that do not fit before time is taken to have been set: half a second of images.
_BELIEVED = 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A message to be recorded.

    Attributes:
        topic, type_name, fields: see :func:`jepa_runtime.ros_messages.definitions.build`.
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


class RingBuffer:
    """Entries of the last ``span_ns`` before the newest, of ``max_bytes`` at most; the oldest give way. Of
    what lasts, the last one before that is kept too.

    An entry whose stamp is further than ``span_ns`` from the newest has a wrong stamp: it is held like one
    that came with the newest, and moves nothing. After several of them in a row time was set, or went on
    after a pause: what was before belongs to another course of events, and is dropped. What lasts is still in
    force, and counts from then on.
    """

    def __init__(self, span_ns: int, max_bytes: int) -> None:
        self._span_ns, self._max_bytes = span_ns, max_bytes
        # Each with the moment for which it counts.
        self._entries: deque[tuple[int, Entry]] = deque()
        self._held: dict[str, Entry] = {}
        self._bytes, self._newest_ns = 0, 0
        # How many entries in a row had a wrong stamp.
        self._odd = 0

    def add(self, entry: Entry) -> int:
        """The newest entry; the moment [ns] for which it counts."""
        is_odd = bool(self._entries) and abs(entry.stamp_ns - self._newest_ns) > self._span_ns
        self._odd = self._odd + 1 if is_odd else 0
        if self._odd >= _BELIEVED:
            self._begin_at(entry.stamp_ns)
        elif not is_odd:
            self._newest_ns = max(self._newest_ns, entry.stamp_ns) if self._entries else entry.stamp_ns
        moment_ns = self._newest_ns if self._odd else entry.stamp_ns
        self._entries.append((moment_ns, entry))
        self._bytes += entry.size
        oldest_ns = self._newest_ns - self._span_ns
        while self._entries and (self._entries[0][0] < oldest_ns or self._bytes > self._max_bytes):
            self._drop_oldest()
        return moment_ns

    def entries(self) -> list[Entry]:
        """All that it holds, in the order of time."""
        held = [*self._held.values(), *(entry for _, entry in self._entries)]
        return sorted(held, key=lambda entry: entry.stamp_ns)

    def _begin_at(self, stamp_ns: int) -> None:
        """Time was set: keep what bears stamps near to this one."""
        near = [each for _, each in self._entries if abs(each.stamp_ns - stamp_ns) <= self._span_ns]
        while self._entries:
            self._drop_oldest()
        first_ns = min([stamp_ns, *(each.stamp_ns for each in near)])
        self._held = {topic: replace(each, stamp_ns=first_ns) for topic, each in self._held.items()}
        self._newest_ns, self._odd = max([stamp_ns, *(each.stamp_ns for each in near)]), 0
        self._entries.extend((each.stamp_ns, each) for each in near)
        self._bytes = sum(each.size for each in near)

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popleft()
        self._bytes -= entry.size
        if entry.lasting:
            self._held[entry.topic] = entry
