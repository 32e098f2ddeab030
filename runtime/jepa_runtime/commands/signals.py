"""The signals that end a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any


class _Stopping(Event):
    """One that a signal handler may set: it would wait for ever for the lock of an ordinary one where it
    interrupts a ``wait`` that has it."""

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False
        self._words: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._words.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        try:
            self._words.get(timeout=None if timeout is None else max(timeout, 0.0))
        except Empty:
            return self._is_set
        # Others wait too.
        self._words.put(None)
        return True


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """An event that is set by SIGINT, SIGTERM and, unless it is ignored (``nohup``), SIGHUP. A second SIGINT
    or SIGTERM is handled as if nobody listened. After a SIGHUP every other one is ignored, at the end too:
    when a terminal hangs up, the system sends one and the shell another, maybe while results are being
    written."""
    stopping = _Stopping()
    with _kept(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as previous:

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
    """SIGTERM, and SIGHUP unless it is ignored (``nohup``), interrupt as Ctrl-C does, by a KeyboardInterrupt
    that has their number: what is half written is removed. A SIGTERM after the first was heard ends the
    process at once; SIGHUP comes twice when a terminal hangs up, from the system and from the shell."""
    with _kept(signal.SIGTERM, signal.SIGHUP) as previous:

        def interrupt(number: int, _: object) -> None:
            if number == signal.SIGHUP:
                previous[number] = signal.SIG_IGN
            for each in previous:
                signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else previous[each])
            raise KeyboardInterrupt(number)

        for number in previous:
            signal.signal(number, interrupt)
        yield


@contextmanager
def _kept(*numbers: int) -> Iterator[dict[int, Any]]:
    """The handlers of signals, which are theirs again at the end, as they then stand here; none of a SIGHUP
    that is ignored."""
    found = {number: signal.getsignal(number) for number in numbers}
    previous = {
        number: handler
        for number, handler in found.items()
        if (number, handler) != (signal.SIGHUP, signal.SIG_IGN)
    }
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
