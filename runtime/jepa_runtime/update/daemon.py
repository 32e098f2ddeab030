"""Looks for updates again and again, as a service of systemd or by itself."""

from __future__ import annotations

import faulthandler
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from threading import Event

from jepa_runtime.errors import UpdateError
from jepa_runtime.update.client import Client
from jepa_runtime.update.config import HANG_S

_STDERR = 2
_JITTER = 0.1
_SLICE_S = 5.0


def run(
    opened: Callable[..., AbstractContextManager[Client]],
    poll_s: Callable[[], float],
    *,
    stopping: Event,
    log: Callable[[str], None],
) -> None:
    """Update, wait, and again, until it is to stop; then an update in work goes on at the next start.

    Args:
        opened: gives the client, which has the lock while it is open; takes ``alive``.
        poll_s: the pause between two rounds in seconds; a tenth longer or shorter at random, so that robots
            that started together do not ask together for ever.
        stopping: ends it when set, at the next moment at which nothing is half done.
        log: takes lines.
    """
    try:
        with watched(stopping) as alive:
            notify("READY=1")
            while True:
                _round(partial(opened, alive=alive), log)
                ends = time.monotonic() + poll_s() * random.uniform(1 - _JITTER, 1 + _JITTER)
                while (left := ends - time.monotonic()) > 0:
                    alive()
                    stopping.wait(min(left, _SLICE_S))
    except KeyboardInterrupt:
        log("stopped")
    finally:
        notify("STOPPING=1")


@contextmanager
def watched(stopping: Event) -> Iterator[Callable[[], None]]:
    """Gives what is to be called as a sign of life. Unless another follows within
    :data:`~jepa_runtime.update.config.HANG_S`, the process ends, and tells where it hung; the next one goes
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


def notify(message: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3)); one that does not listen holds nothing up."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address[1:]
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(message.encode(), socket.MSG_DONTWAIT, address)


def _round(opened: Callable[[], AbstractContextManager[Client]], log: Callable[[str], None]) -> None:
    try:
        with opened() as client:
            state = client.update()
    except UpdateError as error:
        log(f"error: {error}")
        return
    serves = "nothing" if state.current is None else state.current.version
    notify(f"STATUS={state.result}; serves {serves}")
    log(f"{state.result}; serves {serves}" + (f": {state.reason}" if state.reason else ""))
    if state.alarm:
        log(f"ALARM: {state.alarm}")
