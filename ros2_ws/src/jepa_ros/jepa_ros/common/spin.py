"""Life cycle of a node's process: start, spin until a signal arrives, clean shutdown in all cases.

rclpy's own signal handling occasionally raises out of ``spin`` under traffic. Here signals only set an event.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer

from jepa_ros.start import handle_termination_signals
from jepa_runtime.commands import make_streams_robust
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry import peak_rss_mb
from jepa_runtime.util import write_file

POLL_S = 0.1
# A call into Fast DDS may never return after a subscribed process was killed (eProsima/Fast-DDS#6485).
HANG_S = 120.0
_STDERR = 2
# How long a thread waits for the interpreter lock before the holder is asked to release it. Python's default
# of 5 ms is a sixth of a frame at 30 Hz.
SWITCH_INTERVAL_S = 2e-4
# Errors whose message suffices. All others are printed with a traceback.
_WITHOUT_TRACEBACK = (JepaRuntimeError, InvalidParameterValueException, InvalidParameterTypeException)


class Runnable(Protocol):
    """Represent a node that :func:`run` can run."""

    finished: threading.Event
    failure: str

    def stop(self) -> None:
        """Leave the robot safe and release threads, devices and files. Called once."""

    def report(self) -> dict[str, Any]:
        """Return the counters for the report."""


def create_steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Timer:
    """Create a timer on the steady clock, independent of /clock.

    A check for silence must also notice that /clock stops.
    """

    def tick() -> None:
        # Since Kilted, executors inspect the signature of a callback, which not every callable has.
        callback()

    return node.create_timer(period_s, tick, clock=Clock(clock_type=ClockType.STEADY_TIME))


def run(
    create_node: Callable[[], Runnable],
    args: Sequence[str] | None = None,
    *,
    hang_timeout_s: float | None = HANG_S,
) -> int:
    """Run a node until a signal arrives or its ``finished`` event is set, and return the exit code.

    The exit code is 0 after a clean stop, and 1 after an error, which is printed: arguments that ROS 2
    rejects, an invalid parameter, a :class:`JepaRuntimeError`, an exception in a callback, or ``failure`` set
    by the node.

    Args:
        create_node: Creates the node.
        args: Arguments for ROS 2. None: those of the process.
        hang_timeout_s: When ``create_node`` or a callback takes longer, the process prints where it hangs and
            exits with 1, since no signal can end it. None: no limit.
    """
    make_streams_robust()
    stop = threading.Event()
    handle_termination_signals(lambda *_: stop.set())
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f"error: ROS 2 failed to start: {error}", file=sys.stderr, flush=True)
        return 1
    # A Node that is also Runnable: Python has no type for both.
    node: Any = None
    code = 0
    try:
        if hang_timeout_s is None:
            node = create_node()
        else:
            restart_watchdog = partial(
                faulthandler.dump_traceback_later, hang_timeout_s, exit=True, file=_STDERR
            )
            restart_watchdog()
            node = create_node()
            # Not more often, since each call starts a thread.
            create_steady_timer(node, hang_timeout_s / 8, restart_watchdog)
        _spin(node, stop)
        if node.failure:
            print(f"error: {node.failure}", file=sys.stderr, flush=True)
            code = 1
    except Exception as error:
        _print_error(error)
        code = 1
    finally:
        code |= _close(node)
        faulthandler.cancel_dump_traceback_later()
        # The interpreter resets signal handlers while it exits: a second signal (launch repeats Ctrl-C) would
        # kill the process there.
        handle_termination_signals(signal.SIG_IGN)
    return code


def create_executor() -> Executor:
    """Return a single-threaded executor: rclpy's EventsExecutor where available.

    The SingleThreadedExecutor builds a new wait set in Python for every message. On two cores with a ViT-S at
    30 Hz, the EventsExecutor reduced the latency from image to futures by 3 ms (median) and 25 ms (p99).
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def _spin(node: Any, stop: threading.Event) -> None:
    executor = create_executor()
    executor.add_node(node)
    try:
        while rclpy.ok() and not stop.is_set() and not node.finished.is_set():
            executor.spin_once(timeout_sec=POLL_S)
    finally:
        executor.remove_node(node)
        executor.shutdown()


def _close(node: Any) -> int:
    """Stop and destroy ``node``. Each step runs even if an earlier one failed."""
    code = 0
    steps: list[Callable[[], Any]] = []
    if node is not None:
        steps = [node.stop, lambda: _write_report(node), node.destroy_node]
    for step in [*steps, rclpy.try_shutdown]:
        try:
            step()
        except Exception as error:
            _print_error(error)
            code = 1
    return code


def _print_error(error: Exception) -> None:
    """Print ``error`` on standard error, unless its terminal is closed."""
    with suppress(OSError):
        if isinstance(error, _WITHOUT_TRACEBACK):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)


def _write_report(node: Any) -> None:
    path = node.get_parameter("report_path").value
    if not path:
        return
    report = {"node": node.get_fully_qualified_name(), "rss_mb": round(peak_rss_mb(), 1), **node.report()}
    write_file(Path(path), json.dumps(report))
