"""Work drawn a little ahead of its use by another process, in order."""

from __future__ import annotations

import multiprocessing
import os
import threading
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


def end_with_parent() -> None:
    """To be called first in a worker process: it ends when its parent does, which a worker of a pool whose
    parent was killed does not do by itself.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
