"""The update daemon: checks for updates periodically, as a systemd service or standalone."""

from __future__ import annotations

import faulthandler
import logging
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
from jepa_runtime.ota.state import RESULT_NAMES, State, load
from jepa_runtime.util import atomic_files
from jepa_runtime.util.systemd import notify

T = TypeVar("T")
Heartbeat = Callable[[], None]
Log = Callable[[int, str], None]
"""Takes log lines, each after its level of :mod:`logging`."""

FIRST_PAUSE_S = 60.0
_STDERR = 2
_JITTER = 0.1
_SLICE_S = 5.0
# The pause after an update that was undecided because the machine was busy.
_UNDECIDED_S = 300.0
_HANDOVER_S = 0.05


class YieldLock(KeyboardInterrupt):
    """Another process requests the lock: the update in progress stops, and resumes after that process."""


def run(
    round_: Callable[[Heartbeat], float | None],
    *,
    stopping: Event,
    log: Log,
    root: Path,
    wake: Callable[[], bool] = lambda: False,
) -> None:
    """Run rounds until ``stopping`` is set; an update in progress then resumes at the next start.

    Args:
        round_: Runs one round, such as :func:`polling_round`. It takes a heartbeat (see :func:`run_yielding`)
            and returns the pause until the next round in seconds, or None to end. After a :class:`YieldLock`
            it is called again without a pause.
        stopping: Ends the loop when set, at the next point at which no operation is half done.
        log: Takes log lines.
        root: The robot's folder.
        wake: Called every few seconds during a pause; True starts the next round early.

    Raises:
        UpdateError: A round failed.
    """
    try:
        with heartbeat_watchdog(stopping) as heartbeat:
            notify("READY=1")
            while (pause_s := run_yielding(round_, heartbeat, root)) is not None:
                ends = time.monotonic() + pause_s
                while (left := ends - time.monotonic()) > 0 and not wake():
                    heartbeat()
                    stopping.wait(min(left, _SLICE_S))
    except KeyboardInterrupt:
        log(logging.INFO, "stopped")
    finally:
        notify("STOPPING=1")


def polling_round(
    open_client: Callable[..., AbstractContextManager[Client]],
    poll_s: Callable[[], float],
    log: Log,
    alarms: Callable[[], list[str]] = list,
) -> Callable[[Heartbeat], float]:
    """Return the round of a robot that polls its repository: it runs one update.

    Args:
        open_client: Opens the client, which holds the lock while it is open; takes ``heartbeat``.
        poll_s: Returns the pause between two rounds in seconds, before :func:`jitter`; see also
            :func:`pause_s` and :func:`retry_s`.
        log: Takes log lines.
        alarms: Returns the active alarms, which are logged after each round.
    """
    update, failures = resumable_update(open_client), 0

    def round_(heartbeat: Heartbeat) -> float:
        nonlocal failures
        next_s = poll_s()
        try:
            state = update(heartbeat)
            failures = failures + 1 if state.failed_checks else 0
            _log_result(state, log)
            next_s = pause_s(state, next_s)
        except UpdateError as error:
            failures += 1
            log(logging.ERROR, str(error))
        for alarm in alarms():
            log(logging.CRITICAL, alarm)
        return min(next_s, retry_s(failures)) * jitter()

    return round_


def pause_s(state: State, poll_s: float) -> float:
    """Return the pause before the next check in seconds: ``poll_s``, or less after an undecided update."""
    return min(poll_s, _UNDECIDED_S) if state.result == "undecided" else poll_s


def retry_s(failures: int) -> float:
    """Return the longest pause after failed checks in seconds: a minute, doubled with each further one.

    Clocks and networks may become available late after boot, so the first pauses are short.

    Args:
        failures: The number of consecutive failed checks.
    """
    return FIRST_PAUSE_S * 2.0 ** min(failures - 1, 30) if failures else math.inf


def crash_detector(root: Path) -> Callable[[], bool]:
    """Return a ``wake`` for :func:`run` that is true once for each active model that crashes repeatedly."""
    known = ""

    def wake() -> bool:
        nonlocal known
        with suppress(UpdateError):
            state = load(root / STATE)
            if crash_alarm(root, state) and state.current is not None:
                before, known = known, state.current.manifest_sha256
                return known != before
        return False

    return wake


def jitter() -> float:
    """Return a random factor within 10 % of 1 for pauses, so that robots do not poll in step."""
    return random.uniform(1 - _JITTER, 1 + _JITTER)


def resumable_update(
    open_client: Callable[..., AbstractContextManager[Client]],
) -> Callable[[Heartbeat], State]:
    """Return a function that runs one update, over several calls if it has to yield the lock.

    A call that follows a :class:`YieldLock` finishes the update in progress. It begins no new update if
    another process finished that one in the meantime.
    """
    yielded = False

    def update(heartbeat: Heartbeat) -> State:
        nonlocal yielded
        begin, yielded = not yielded, False
        try:
            with open_client(heartbeat=heartbeat) as client:
                return client.update(begin=begin)
        except YieldLock:
            yielded = True
            raise

    return update


def run_yielding(act: Callable[[Heartbeat], T], heartbeat: Heartbeat, root: Path) -> T:
    """Run a function that holds the lock of a robot, and rerun it each time that it yields the lock.

    Args:
        act: Takes a heartbeat that raises :class:`YieldLock` when another process requests the lock.
        heartbeat: The heartbeat of :func:`heartbeat_watchdog`.
        root: The robot's folder.
    """
    lock = root / LOCK

    def yielding_heartbeat() -> None:
        heartbeat()
        if atomic_files.is_lock_requested(lock):
            raise YieldLock

    while True:
        with suppress(YieldLock):
            return act(yielding_heartbeat)
        while atomic_files.is_lock_requested(lock):
            heartbeat()
            time.sleep(_HANDOVER_S)


@contextmanager
def heartbeat_watchdog(stopping: Event) -> Iterator[Heartbeat]:
    """Provide a heartbeat, and end the process if it is not called in time.

    Unless another heartbeat follows within :data:`~jepa_runtime.ota.config.HANG_S`, the process prints the
    stack of every thread and exits; the next process resumes, as after a power cut.

    Once ``stopping`` is set, the heartbeat raises KeyboardInterrupt. A signal handler that raised it directly
    could interrupt an import, which swallows the exception and stays half done.
    """

    def heartbeat() -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        faulthandler.dump_traceback_later(HANG_S, exit=True, file=_STDERR)
        notify("WATCHDOG=1")

    try:
        yield heartbeat
    finally:
        faulthandler.cancel_dump_traceback_later()


def _log_result(state: State, log: Log) -> None:
    active = "none" if state.current is None else state.current.version
    notify(f"STATUS={RESULT_NAMES[state.result]}; active model: {active}")
    log(
        logging.INFO,
        f"{RESULT_NAMES[state.result]}; active model: {active}"
        + (f": {state.reason}" if state.reason else ""),
    )
