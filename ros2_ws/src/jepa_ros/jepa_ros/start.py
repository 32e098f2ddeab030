"""The commands of the nodes."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from typing import Any


def when_to_end(handle: Any) -> None:
    """Have ``handle`` take SIGINT, SIGTERM and, as where a connection to the robot breaks off, SIGHUP, unless
    that is ignored (``nohup``)."""
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ends.append(signal.SIGHUP)
    for number in ends:
        signal.signal(number, handle)


def _command(node: str) -> Callable[[], None]:
    """Runs ``node``. A signal ends it as cleanly as later while its modules are still being read, which takes
    seconds on a small computer: nothing is open then."""

    def command() -> None:
        when_to_end(lambda *_: os._exit(0))
        importlib.import_module(f"jepa_ros.nodes.{node}").main()

    return command


world_model = _command("world_model")
camera = _command("camera")
two_rooms = _command("two_rooms")
planner = _command("planner")
monitor = _command("monitor")
pictures = _command("pictures")
update_manager = _command("update_manager")
