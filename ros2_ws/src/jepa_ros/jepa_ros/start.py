"""The commands of the nodes."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable


def _command(node: str) -> Callable[[], None]:
    """Runs ``node``. A signal ends it as cleanly as later while its modules are still being read, which takes
    seconds on a small computer: nothing is open then."""

    def command() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(0))
        importlib.import_module(f"jepa_ros.nodes.{node}").main()

    return command


world_model = _command("world_model")
camera = _command("camera")
two_rooms = _command("two_rooms")
planner = _command("planner")
monitor = _command("monitor")
pictures = _command("pictures")
update_manager = _command("update_manager")
