"""A mailbox with one place per sender: whoever is late finds the newest item, not a queue of old ones."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Condition, Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Every place has depth 1, newest wins; an item that was replaced before anyone took it is counted. Any
    thread may use it.

    Places are emptied in the order in which they were filled, and a newer item takes its place's turn over.
    So an item waits for at most one item of every other place, however fast those are put. Taking the oldest
    item first would not do: a fast sender, whose item is always young, would starve beside a slow one.

    Args:
        places: their names.
    """

    def __init__(self, places: Iterable[str] = ("",)) -> None:
        self._condition = Condition(Lock())
        # A dict gives keys in the order in which they came, and a new value leaves its key where it was.
        self._items: dict[str, Item] = {}
        self._received = dict.fromkeys(places, 0)
        self._dropped = dict.fromkeys(self._received, 0)
        self._woken = False

    def counts(self, place: str = "") -> tuple[int, int]:
        """How many items were put into ``place``, and how many of them were dropped."""
        with self._condition:
            return self._received[place], self._dropped[place]

    def accepted(self) -> int:
        """How many items, of all places, were taken or still lie there."""
        with self._condition:
            return sum(self._received.values()) - sum(self._dropped.values())

    def put(self, item: Item, place: str = "") -> None:
        """Leave ``item``; an item still lying there is dropped.

        Raises:
            KeyError: there is no such place.
        """
        with self._condition:
            self._received[place] += 1
            self._dropped[place] += place in self._items
            self._items[place] = item
            self._condition.notify()

    def wake(self) -> None:
        """Let the thread waiting in :meth:`take` (or the next that comes) return, with or without an item."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def take(self, timeout_s: float | None = None) -> tuple[str, Item] | None:
        """Wait for an item or a :meth:`wake`, for so long at most (None: for ever); the place that was filled
        first, and what lies there.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._woken, timeout_s)
            self._woken = False
            if not self._items:
                return None
            place = next(iter(self._items))
            return place, self._items.pop(place)
