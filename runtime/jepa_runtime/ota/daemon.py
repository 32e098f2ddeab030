"""Looks for updates again and again, as a service of systemd or by itself."""

from __future__ import annotations

import faulthandler
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TypeVar

from jepa_runtime.errors import UpdateError
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.config import HANG_S
from jepa_runtime.ota.operator_alarms import crash_alarm
from jepa_runtime.ota.robot import LOCK, STATE
from jepa_runtime.ota.state import State, load
from jepa_runtime.util import atomic_files
from jepa_runtime.util.systemd import notify

T = TypeVar("T")
Alive = Callable[[], None]

FIRST_PAUSE_S = 60.0
_STDERR = 2
_JITTER = 0.1
_SLICE_S = 5.0
# The pause after an update that the machine was too busy for.
_UNDECIDED_S = 300.0
_PASSING_S = 0.05


class Yield(KeyboardInterrupt):
    """Somebody asks for the lock: what is in work is left, to be gone on with as soon as they are done."""


def run(
    round_: Callable[[Alive], float | None],
    *,
    stopping: Event,
    log: Callable[[str], None],
    root: Path,
    due: Callable[[], bool] = lambda: False,
) -> None:
    """Do a round, wait, and again, until it is to stop; then an update in work goes on at the next start.

    Args:
        round_: looks once for what is to be done and does it, :func:`ordinary` for instance. It takes
            ``alive`` (see :func:`going_on`), and gives the pause until the next round in seconds; None: there
            is to be none. After a :class:`Yield` it is called again without a pause.
        stopping: ends it when set, at the next moment at which nothing is half done.
        log: takes lines.
        root: the robot's folder.
        due: asked every few seconds during a pause: whether the next round is to begin now.

    Raises:
        UpdateError: a round did.
    """
    try:
        with watched(stopping) as alive:
            notify("READY=1")
            while (pause_s := going_on(round_, alive, root)) is not None:
                ends = time.monotonic() + pause_s
                while (left := ends - time.monotonic()) > 0 and not due():
                    alive()
                    stopping.wait(min(left, _SLICE_S))
    except KeyboardInterrupt:
        log("stopped")
    finally:
        notify("STOPPING=1")


def ordinary(
    opened: Callable[..., AbstractContextManager[Client]],
    poll_s: Callable[[], float],
    log: Callable[[str], None],
    alarms: Callable[[], list[str]] = list,
) -> Callable[[Alive], float]:
    """The round of a robot that looks by itself: it updates.

    Args:
        opened: gives the client, which has the lock while it is open; takes ``alive``.
        poll_s: the pause between two rounds in seconds, times :func:`jitter`; see also :func:`pause_s` and
            :func:`retry_s`.
        alarms: what needs a person, logged after each round.
    """
    update, failed = carrying(opened), 0

    def round_(alive: Alive) -> float:
        nonlocal failed
        most_s = poll_s()
        try:
            ended = update(alive)
            failed = failed + 1 if ended.failed_looks else 0
            _tell(ended, log)
            most_s = pause_s(ended, most_s)
        except UpdateError as error:
            failed += 1
            log(f"error: {error}")
        for alarm in alarms():
            log(f"ALARM: {alarm}")
        return min(most_s, retry_s(failed)) * jitter()

    return round_


def pause_s(state: State, poll_s: float) -> float:
    """The pause before the next look in seconds: ``poll_s``, or less where the last one was undecided."""
    return min(poll_s, _UNDECIDED_S) if state.result == "undecided" else poll_s


def retry_s(failed: int) -> float:
    """The longest pause after looks that failed, in seconds: a minute, doubled with each further one. Clocks
    and networks are late at the start of a machine.

    Args:
        failed: the number of looks that failed in a row.
    """
    return FIRST_PAUSE_S * 2.0 ** min(failed - 1, 30) if failed else math.inf


def crashing(root: Path) -> Callable[[], bool]:
    """For ``due`` of :func:`run`: true once for each model that crashes again and again in service."""
    known = ""

    def due() -> bool:
        nonlocal known
        with suppress(UpdateError):
            state = load(root / STATE)
            if crash_alarm(root, state) and state.current is not None:
                before, known = known, state.current.manifest_sha256
                return known != before
        return False

    return due


def jitter() -> float:
    """A tenth above or below 1, at random: what pauses are multiplied with, so that robots that started
    together do not ask together for ever."""
    return random.uniform(1 - _JITTER, 1 + _JITTER)


def carrying(opened: Callable[..., AbstractContextManager[Client]]) -> Callable[[Alive], State]:
    """Updates, one a call, each of as many calls as it has to yield: one that follows a :class:`Yield` ends
    what is in work, and begins nothing where whoever had the lock meanwhile ended it.
    """
    yielded = False

    def update(alive: Alive) -> State:
        nonlocal yielded
        begin, yielded = not yielded, False
        try:
            with opened(alive=alive) as client:
                return client.update(begin=begin)
        except Yield:
            yielded = True
            raise

    return update


def going_on(act: Callable[[Alive], T], alive: Alive, root: Path) -> T:
    """Do what takes the lock of a robot, and again as often as it is left for others, after their turn.

    Args:
        act: takes a sign of life that raises :class:`Yield` when somebody asks for the lock.
        alive: a sign of life, as :func:`watched` gives it.
        root: the robot's folder.
    """
    lock = root / LOCK

    def yielding() -> None:
        alive()
        if atomic_files.is_lock_requested(lock):
            raise Yield

    while True:
        with suppress(Yield):
            return act(yielding)
        while atomic_files.is_lock_requested(lock):
            alive()
            time.sleep(_PASSING_S)


@contextmanager
def watched(stopping: Event) -> Iterator[Alive]:
    """Gives what is to be called as a sign of life. Unless another follows within
    :data:`~jepa_runtime.ota.config.HANG_S`, the process ends, and tells where it hung; the next one goes
    on, as after a power cut.

    Once ``stopping`` is set, a sign of life raises KeyboardInterrupt. A signal that did so by itself could
    come in the middle of an import, which swallows it and is left half done.
    """

    def alive() -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=_STDERR)
        notify("WATCHDOG=1")

    try:
        yield alive
    finally:
        faulthandler.cancel_dump_traceback_later()


def _tell(state: State, log: Callable[[str], None]) -> None:
    serves = "nothing" if state.current is None else state.current.version
    notify(f"STATUS={state.result}; serves {serves}")
    log(f"{state.result}; serves {serves}" + (f": {state.reason}" if state.reason else ""))
