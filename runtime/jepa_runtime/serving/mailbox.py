"""A mailbox with one slot per sender: a slow reader finds the newest item, not a queue of old ones."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Condition, Lock
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Slots of depth 1 in which the newest item wins; replaced items are counted as dropped. Thread-safe.

    Slots are emptied in the order in which they were filled, and a newer item keeps the turn of its slot. So
    an item waits for at most one item of every other slot, however fast those are filled. Taking the oldest
    item first would starve a fast sender, whose item is always young, in favor of a slow one.

    Args:
        slots: Names of the slots.
    """

    def __init__(self, slots: Iterable[str] = ("",)) -> None:
        self._condition = Condition(Lock())
        # A dict yields keys in insertion order, and a new value leaves its key in place.
        self._items: dict[str, Item] = {}
        self._received = dict.fromkeys(slots, 0)
        self._dropped = dict.fromkeys(self._received, 0)
        self._woken = False

    def counts(self, slot: str = "") -> tuple[int, int]:
        """Return the number of items put into ``slot``, and the number of those dropped."""
        with self._condition:
            return self._received[slot], self._dropped[slot]

    def accepted(self) -> int:
        """Return the number of items in all slots that were taken or are still there."""
        with self._condition:
            return sum(self._received.values()) - sum(self._dropped.values())

    def put(self, item: Item, slot: str = "") -> None:
        """Put ``item`` into ``slot``; an item that is still there is dropped.

        Raises:
            KeyError: There is no such slot.
        """
        with self._condition:
            self._received[slot] += 1
            self._dropped[slot] += slot in self._items
            self._items[slot] = item
            self._condition.notify()

    def wake(self) -> None:
        """Make the thread waiting in :meth:`take`, or the next caller, return with or without an item."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def take(self, timeout_s: float | None = None) -> tuple[str, Item] | None:
        """Wait for an item or a :meth:`wake`.

        Args:
            timeout_s: Maximum wait; None: no limit.

        Returns:
            The slot that was filled first, and its item; None if there is none.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._woken, timeout_s)
            self._woken = False
            if not self._items:
                return None
            slot = next(iter(self._items))
            return slot, self._items.pop(slot)
