"""Entry points of the node executables."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from typing import Any


def handle_termination_signals(handler: Any) -> None:
    """Install ``handler`` for SIGINT, SIGTERM and SIGHUP.

    SIGHUP, which is sent when the connection to the robot is lost, is left alone if it is ignored
    (``nohup``).
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        signal.signal(number, handler)


def _command(node: str) -> Callable[[], None]:
    """Return the entry point of ``node``.

    A signal also ends the process cleanly during the import of its modules, which takes seconds on a small
    computer: no resource is open yet.
    """

    def command() -> None:
        handle_termination_signals(lambda *_: os._exit(0))
        importlib.import_module(f"jepa_ros.nodes.{node}").main()

    return command


world_model = _command("world_model")
camera = _command("camera")
two_rooms = _command("two_rooms")
first_person = _command("first_person")
planner = _command("planner")
monitor = _command("monitor")
pictures = _command("pictures")
route = _command("route")
update_manager = _command("update_manager")
