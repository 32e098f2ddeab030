"""Work drawn a little ahead of its use by another process, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
AHEAD = 3


def in_order(submit: Callable[[int], Future[T]], start: int, stop: int) -> Iterator[T]:
    """The results of ``submit(start)`` … ``submit(stop - 1)``, with at most :data:`AHEAD` of them waiting
    in memory.
    """
    pending: deque[Future[T]] = deque()
    for index in range(start, stop):
        pending.append(submit(index))
        if len(pending) > AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
