"""Results computed by another process or thread shortly before they are used, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
AHEAD = 3


def in_order(submit: Callable[[int], Future[T]], start: int, stop: int) -> Iterator[T]:
    """Yield the results of ``submit(start)`` … ``submit(stop - 1)``, at most :data:`AHEAD` in memory."""
    pending: deque[Future[T]] = deque()
    for index in range(start, stop):
        pending.append(submit(index))
        if len(pending) > AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
