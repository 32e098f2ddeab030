"""The signals that end a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any


class _SignalEvent(Event):
    """An event that a signal handler can set.

    A handler that interrupts ``wait`` of an ordinary event would wait forever for the lock that ``wait``
    holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False
        self._wakeups: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._wakeups.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        try:
            self._wakeups.get(timeout=None if timeout is None else max(timeout, 0.0))
        except Empty:
            return self._is_set
        # For other threads that wait.
        self._wakeups.put(None)
        return True


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """Yield an event that SIGINT, SIGTERM and, unless it is ignored (``nohup``), SIGHUP set.

    A second SIGINT or SIGTERM has its previous handler. After a SIGHUP all further ones are ignored, also
    after the block: when a terminal hangs up, the system sends one and the shell another, maybe while results
    are being written.
    """
    stopping = _SignalEvent()
    with _restored_handlers(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as previous:

        def stop(number: int, _: object) -> None:
            stopping.set()
            if number == signal.SIGHUP:
                previous[number] = signal.SIG_IGN
            signal.signal(number, previous[number])

        for number in previous:
            signal.signal(number, stop)
        yield stopping


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt with the signal number on SIGTERM and SIGHUP.

    A SIGHUP that is ignored (``nohup``) stays ignored. Partial files are thus removed as after Ctrl-C. A
    second SIGTERM ends the process at once. A second SIGHUP is ignored: when a terminal hangs up, the system
    sends one and the shell another.
    """
    with _restored_handlers(signal.SIGTERM, signal.SIGHUP) as previous:

        def interrupt(number: int, _: object) -> None:
            if number == signal.SIGHUP:
                previous[number] = signal.SIG_IGN
            for other in previous:
                signal.signal(other, signal.SIG_IGN if other == signal.SIGHUP else previous[other])
            raise KeyboardInterrupt(number)

        for number in previous:
            signal.signal(number, interrupt)
        yield


@contextmanager
def _restored_handlers(*numbers: int) -> Iterator[dict[int, Any]]:
    """Yield the handlers of signals, and set those that the dictionary contains after the block.

    A SIGHUP that is ignored is left out.
    """
    current = {number: signal.getsignal(number) for number in numbers}
    previous = {
        number: handler
        for number, handler in current.items()
        if (number, handler) != (signal.SIGHUP, signal.SIG_IGN)
    }
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
