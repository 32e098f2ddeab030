"""A mailbox with room for one: whoever is late finds the newest item, not a queue of old ones."""

from __future__ import annotations

from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Depth 1, newest wins; every item that was replaced before anyone took it is counted. Any thread may use
    it.
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._item: Item | None = None
        self._woken = False
        self._received = 0
        self._dropped = 0

    @property
    def counts(self) -> tuple[int, int]:
        """How many items were put, and how many of them were dropped."""
        with self._condition:
            return self._received, self._dropped

    def put(self, item: Item) -> None:
        """Leave ``item``; an item still lying there is dropped."""
        with self._condition:
            self._received += 1
            self._dropped += self._item is not None
            self._item = item
            self._condition.notify()

    def wake(self) -> None:
        """Let the thread waiting in :meth:`take` (or the next that comes) return, with or without an item."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def take(self) -> Item | None:
        """Wait for an item or a :meth:`wake`, and take what is there."""
        with self._condition:
            while self._item is None and not self._woken:
                self._condition.wait()
            item, self._item, self._woken = self._item, None, False
            return item
