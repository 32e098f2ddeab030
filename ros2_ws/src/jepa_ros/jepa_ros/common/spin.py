"""The life of a node's process: start, spin until told to stop, stop cleanly, in every case.

rclpy's own signal handling raises out of ``spin`` now and then under traffic; here signals only set an event.
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

from jepa_ros.start import when_to_end
from jepa_runtime.commands.standard_streams import make_streams_robust
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry.environment import peak_rss_mb
from jepa_runtime.util.output_files import write

try:
    from rclpy.experimental import EventsExecutor
except ImportError:
    EventsExecutor = None

POLL_S = 0.1
# Fast DDS may never return from a call once a process that listened was killed (eProsima/Fast-DDS#6485).
HANG_S = 120.0
_STDERR = 2
# How long a thread that waits for the interpreter leaves it to the one that has it. Python's default of 5 ms
# is a sixth of a frame at 30 Hz.
SWITCH_INTERVAL_S = 2e-4
# Of others, people need to see where they come from.
_EXPLAINED = (JepaRuntimeError, InvalidParameterValueException, InvalidParameterTypeException)


class Runnable(Protocol):
    """A node that can be run by :func:`run`."""

    finished: threading.Event
    failure: str

    def stop(self) -> None:
        """Leave the robot safe and release threads, devices and files; called once."""

    def report(self) -> dict[str, Any]:
        """Counters for the report."""


def every(node: Node, period_s: float, call: Callable[[], None]) -> Timer:
    """Call by the time that passes, whatever /clock says: who watches for silence has to notice when that
    stops."""

    def tick() -> None:
        # Since Kilted executors ask for a signature, which not all that can be called has.
        call()

    return node.create_timer(period_s, tick, clock=Clock(clock_type=ClockType.STEADY_TIME))


def run(
    create: Callable[[], Runnable], args: Sequence[str] | None = None, *, hang_s: float | None = HANG_S
) -> int:
    """Run the node that ``create`` makes until a signal or its ``finished`` event; return the exit code.

    0 after a clean stop; 1 after an error, which was printed: arguments that ROS 2 does not take, a wrong
    parameter, a :class:`JepaRuntimeError`, an exception in a callback, or ``failure`` set by the node.

    Args:
        hang_s: the process ends, with 1, and tells where it hung, when ``create`` or callbacks take so long:
            then no signal ends it. None: it is left alone.
    """
    make_streams_robust()
    stop = threading.Event()
    when_to_end(lambda *_: stop.set())
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f"error: ROS 2 does not start: {error}", file=sys.stderr, flush=True)
        return 1
    node, code = None, 0
    try:
        if hang_s is None:
            node = create()
        else:
            pulse = partial(faulthandler.dump_traceback_later, hang_s, exit=True, file=_STDERR)
            pulse()
            node = create()
            # Rarely: each time it starts a thread.
            every(node, hang_s / 8, pulse)
        _spin(node, stop)
        if node.failure:
            print(f"error: {node.failure}", file=sys.stderr, flush=True)
            code = 1
    except Exception as error:
        _tell(error)
        code = 1
    finally:
        code |= _close(node)
        faulthandler.cancel_dump_traceback_later()
        # The interpreter resets handlers while it ends: a second signal (launch repeats Ctrl-C) would kill it
        # there.
        when_to_end(signal.SIG_IGN)
    return code


def create_executor() -> Executor:
    """An executor on one thread: rclpy's EventsExecutor where it has one, else the usual one, which builds a
    new wait set in Python for every message. On two cores with a ViT-S at 30 Hz the first took 3 ms off the
    median from image to futures, and 25 ms off the 99th percentile."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return SingleThreadedExecutor() if EventsExecutor is None else EventsExecutor()


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
    """Stop and destroy ``node``; each step is taken even if the one before failed."""
    code = 0
    steps: list[Callable[[], Any]] = []
    if node is not None:
        steps = [node.stop, lambda: _write_report(node), node.destroy_node]
    for step in [*steps, rclpy.try_shutdown]:
        try:
            step()
        except Exception as error:
            _tell(error)
            code = 1
    return code


def _tell(error: Exception) -> None:
    """On standard error, unless its terminal is gone."""
    with suppress(OSError):
        if isinstance(error, _EXPLAINED):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)


def _write_report(node: Any) -> None:
    path = node.get_parameter("report_path").value
    if not path:
        return
    whole = {"node": node.get_fully_qualified_name(), "rss_mb": round(peak_rss_mb(), 1), **node.report()}
    write(Path(path), json.dumps(whole))
