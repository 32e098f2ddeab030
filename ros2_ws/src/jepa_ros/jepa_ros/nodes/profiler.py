"""Measures the latency of the world model on a running graph from another process.

A camera process publishes images on an exact schedule, the world model processes them, and this process
receives the futures: three processes, as on a robot. The latency of an image is the time from when it was due
to when its futures were received and deserialized here. Its stages are adjacent: ``receive`` (delay of the
camera), ``transport`` (from the publish call of the camera to the callback in the node), the stages in
~/stage_times, and ``delivery`` (from the publish call of the node to the callback here).
"""

from __future__ import annotations

import argparse
import gc
import math
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import rclpy
from jepa_msgs.msg import ModelInfo
from rclpy.signals import SignalHandlerOptions
from rich.console import Console

from jepa_ros.common.spin import create_executor
from jepa_ros.profiler.camera import Schedule
from jepa_ros.profiler.frame_ledger import FrameLedger
from jepa_ros.profiler.listener import Listener
from jepa_ros.profiler.options import node_parameters, parse
from jepa_ros.profiler.processes import Child, camera_command, node_command, prepare_environment
from jepa_ros.profiler.profile_result import create_profile, sweep_rates
from jepa_ros.profiler.view import View, summary
from jepa_ros.start import handle_termination_signals
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.profiling import Profile, Run, Sweep, run_sweep, write_profile
from jepa_runtime.telemetry import IDLE_S, Energy, Monitor, Reading, measure_energy, measures_power

T = TypeVar("T")

_NODE = "/world_model"
_LOAD_TIMEOUT_S = 120.0
_DISCOVERY_S = 3.0
_RESPONSE_TIMEOUT_S = 2 * _DISCOVERY_S
_FIRST_RESULT_TIMEOUT_S = 30.0
_WARM_UP_S = 1.0
# Without a result for this long, no more results are expected.
_SILENCE_S = 2.0
# From sending the schedule until its first image is due.
_LEAD_NS = 100_000_000
# The system clock is slewed all the time. A larger change is a step.
_CLOCK_STEP_MS = 1.0
_POLL_S = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ros2 run jepa_ros profiler``; return 0 if the run was measured, 1 after an error."""
    options = parse(arguments)
    prepare_environment(isolated=options.attach is None)
    with _stop_on_signals() as stopping:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        try:
            with ExitStack() as stack:
                failure = Profiler(options, stopping, stack).measure()
        except JepaRuntimeError as error:
            failure = str(error)
        finally:
            rclpy.try_shutdown()
    if failure:
        print(f"error: {failure}", file=sys.stderr, flush=True)
    return int(bool(failure))


class Profiler:
    """Run one measurement. ``stack`` stops everything that was started here in all cases."""

    def __init__(self, options: argparse.Namespace, stopping: threading.Event, stack: ExitStack) -> None:
        self._options = options
        self._stopping = stopping
        self._stack = stack
        self._logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jepa-profiler-")))
        self._frames = max(1, round(options.duration * options.rate))
        # Largest latency of the previous run [ms].
        self._previous_latency_ms = 0.0
        # Times are read from CLOCK_MONOTONIC, which is never set. Only the stamps use the system clock.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._listener = Listener(options.attach or _NODE)
        self._created_at = time.monotonic()
        self._executor = create_executor()
        self._executor.add_node(self._listener)
        stack.callback(self._listener.destroy_node)
        stack.callback(self._executor.shutdown)
        self._server = None if options.attach else self._start_server()
        self._console = Console()

    def measure(self) -> str:
        """Measure, write and show the profile; return why it failed, or an empty string."""
        _create_folder(self._options.output)
        info, pid = self._await_server()
        if self._server is not None:
            self._require_isolated()
        self._listener.subscribe_results(self._options.topic)
        camera, size, distinct = self._start_camera(info)
        self._warm_up(camera)
        options = self._options
        title = f"{options.source} at {options.rate:g} Hz"
        with Monitor(pid=pid) as monitor:
            ledger, failure = self._run(camera, options.rate, options.duration, title)
        run = ledger.run(self._options.deadline_ms)
        readings = monitor.readings(since_s=ledger.start_ns / 1e9)
        if self._stopping.is_set() and not run.latency_ms:
            raise ProfileError("stopped before anything was measured", code="profile.stopped")
        if not run.latency_ms:
            raise ProfileError(
                failure or f"none of {ledger.sent} images had a result{self._server_log()}",
                code="profile.no_frame_processed",
            )
        profile = create_profile(
            options,
            info=info,
            run=run,
            readings=readings,
            energy=self._energy(run, readings),
            frame_size=size,
            notes=[*self._notes(ledger, distinct, failure), *monitor.notes()],
        )
        write_profile(profile, options.output)
        if options.sweep:
            profile, failure = self._sweep(camera, profile, info, failure)
            write_profile(profile, options.output)
        camera.stop()
        if not options.quiet:
            self._console.print(summary(profile))
            self._console.print(f"profile: {options.output}", markup=False, highlight=False)
        return failure

    # --- setup

    def _start_server(self) -> Child:
        remaps = {"image": self._options.topic}
        command = node_command("world_model", node_parameters(self._options), remaps)
        return self._stack.enter_context(Child("world_model", command, self._logs / "world_model.log"))

    def _await_server(self) -> tuple[ModelInfo, int]:
        """Return the description of the active model and the process ID of its node."""
        name, listener = self._options.attach or _NODE, self._listener
        timeout_s = _RESPONSE_TIMEOUT_S if self._server is None else _LOAD_TIMEOUT_S
        info = self._wait(
            lambda: listener.info,
            timeout_s,
            lambda: f"{name}: no active world model with this name; {listener.describe_world_models()}",
        )
        pid = self._wait(
            lambda: listener.pid if self._server is None else self._server.process.pid,
            _RESPONSE_TIMEOUT_S,
            lambda: (
                f"{name}: its diagnostics name no process of this host, and times of two hosts cannot be "
                "compared: run the profiler on the host of the world model"
            ),
        )
        return info, pid

    def _require_isolated(self) -> None:
        """Check that no other node could execute the commands that will be published.

        Raises:
            ProfileError: Another node is on this graph.
        """
        self._spin_for(self._created_at + _DISCOVERY_S - time.monotonic())
        if others := self._listener.other_nodes():
            raise ProfileError(
                f"the graph of ROS_DOMAIN_ID {self._listener.context.get_domain_id()} has other nodes, which "
                f"could execute the published commands: {', '.join(others)}. Try again: each run uses a "
                "random domain",
                code="profile.not_isolated",
            )

    def _start_camera(self, info: ModelInfo) -> tuple[Child, tuple[int, int], int]:
        """Return the camera once it is ready, the size of its images and the number of distinct ones."""
        options = self._options
        others = self._listener.count_publishers(self._listener.resolve_topic_name(options.topic))
        if others:
            raise ProfileError(
                f"topic {options.topic} has {others} other image publishers: stop them, or choose another "
                "topic with --topic",
                code="profile.duplicate_publishers",
            )
        takes_actions = info.action_low != info.action_high
        command = camera_command(
            source=options.source,
            topic=options.topic,
            rate_hz=options.rate,
            frames=self._frames,
            offset_ns=self._offset_ns,
            size=options.size,
            # On a shared graph, commands could move a robot.
            actions=info.action_names if takes_actions and self._server is not None else [],
        )
        camera = self._stack.enter_context(Child("camera", command, self._logs / "camera.log", piped=True))
        ready_messages = self._wait(
            camera.read_messages, _LOAD_TIMEOUT_S, lambda: f"{options.source}: reading timed out", camera
        )
        ready = ready_messages[0]["ready"]
        width, height = ready["size"]
        return camera, (width, height), ready["distinct"]

    def _warm_up(self, camera: Child) -> None:
        """Wait until results arrive, and let caches and allocators settle."""
        counts = self._listener.message_counts
        began = time.monotonic()
        self._wait(
            lambda: counts["stage_times"] and (counts["futures"] or counts["latent"]),
            _FIRST_RESULT_TIMEOUT_S + 1 / self._options.rate,
            lambda: f"images are published on {self._options.topic}, but {self._missing_results()}",
            camera,
        )
        self._spin_for(began + _WARM_UP_S - time.monotonic())

    def _missing_results(self) -> str:
        missing = [name for name in ("latent", "stage_times") if not self._listener.message_counts[name]]
        verdict = self._listener.verdict
        diagnostics = f" (diagnostics: {verdict})" if verdict else ""
        topics = " and ".join(missing)
        return f"nothing was received on {topics} of the world model{diagnostics}{self._server_log()}"

    def _wait(
        self,
        condition: Callable[[], T | None],
        timeout_s: float,
        explain: Callable[[], str],
        camera: Child | None = None,
    ) -> T:
        """Spin until ``condition`` returns a true value, and return it.

        Raises:
            ProfileError: The time is over, a process has exited, or a signal was received.
        """
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            for child in (self._server, camera):
                if child is not None and child.exit_message:
                    raise ProfileError(
                        f"{child.exit_message}{child.log_excerpt()}", code="profile.process_exited"
                    )
            if self._stopping.is_set():
                raise ProfileError("stopped before anything was measured", code="profile.stopped")
            if time.monotonic() > deadline:
                raise ProfileError(explain(), code="profile.timeout")
            self._executor.spin_once(timeout_sec=_POLL_S)
        return value

    def _spin_for(self, duration_s: float) -> None:
        """Process messages for a while, or until a signal arrives."""
        end = time.monotonic() + duration_s
        while time.monotonic() < end and not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=_POLL_S)

    def _server_log(self) -> str:
        return "" if self._server is None else self._server.log_excerpt()

    # --- the run

    def _run(
        self, camera: Child, rate_hz: float, duration_s: float, title: str, *, lead: int = 0
    ) -> tuple[FrameLedger, str]:
        """Run a schedule, or until a signal arrives; return why it failed, or an empty string."""
        listener = self._listener
        schedule = Schedule(
            start_ns=time.monotonic_ns() + round((lead + 1) * 1e9 / rate_hz) + _LEAD_NS,
            rate_hz=rate_hz,
            frames=max(1, round(duration_s * rate_hz)),
            lead=lead,
        )
        ledger = listener.ledger = FrameLedger(
            start_ns=schedule.start_ns, rate_hz=rate_hz, offset_ns=self._offset_ns, frames=schedule.frames
        )
        failure = ""
        self._console.print(f"measuring {duration_s:g} s: {title}", markup=False, highlight=False)
        # A garbage collection over all imported modules would delay a result.
        gc.freeze()
        camera.send(asdict(schedule))
        with View(title, duration_s, self._console) as view:
            while not self._stopping.is_set() and not self._is_over(camera, ledger):
                self._executor.spin_once(timeout_sec=_POLL_S)
                for index, time_ns in camera.read_messages():
                    ledger.add_sent(index, time_ns)
                failure = failure or self._failure(camera, ledger)
                view.show(ledger, failure or listener.verdict)
        return ledger, failure or self._failure(camera, ledger)

    def _is_over(self, camera: Child, ledger: FrameLedger) -> bool:
        """Return whether no more images are published and no more results are expected."""
        if ledger.sent < ledger.frames and not camera.process.poll():
            return False
        return ledger.idle or self._silent_s(ledger) > self._max_silence_s(ledger)

    def _failure(self, camera: Child, ledger: FrameLedger) -> str:
        elapsed_s = (time.monotonic_ns() - ledger.start_ns) / 1e9
        if self._server is not None and self._server.exit_message:
            return f"{self._server.exit_message} after {elapsed_s:.1f} s: all later images were dropped"
        if camera.process.poll():
            return (
                f"{camera.exit_message} after {ledger.sent} of {ledger.frames} images{camera.log_excerpt()}"
            )
        silent_s = self._silent_s(ledger)
        if 0 < ledger.sent < ledger.frames and silent_s > 1 / ledger.rate_hz + self._max_silence_s(ledger):
            return f"the world model stopped responding after {elapsed_s - silent_s:.1f} s"
        return ""

    def _max_silence_s(self, ledger: FrameLedger) -> float:
        """Return the silence after which no more results are expected."""
        return max(_SILENCE_S, 3 * max(ledger.recent_ms, default=self._previous_latency_ms) / 1e3)

    def _silent_s(self, ledger: FrameLedger) -> float:
        """Return for how long no message arrived although one could have."""
        since_ns = max(self._listener.last_message_ns, ledger.start_ns)
        if ledger.sent == ledger.frames:
            since_ns = max(since_ns, ledger.due_ns(ledger.frames - 1))
        return (time.monotonic_ns() - since_ns) / 1e9

    def _sweep(self, camera: Child, profile: Profile, info: ModelInfo, failure: str) -> tuple[Profile, str]:
        """Add a sweep of rising rates to the profile, or a note why there is none.

        Returns:
            The profile, and why measuring failed before or during the sweep.
        """
        notes = list(profile.notes)
        self._previous_latency_ms = max(profile.run.latency_ms)

        def measure(rate_hz: float) -> Run:
            nonlocal failure
            lead = math.ceil(info.history_size * info.step_s * rate_hz) + 2
            title, seconds = f"sweep at {rate_hz:g} Hz", self._options.sweep
            ledger, failure = self._run(camera, rate_hz, seconds, title, lead=lead)
            if failure:
                raise ProfileError(failure, code="profile.run_failed")
            return ledger.run(1e3 / rate_hz)

        result: Sweep | None = None
        try:
            if failure or self._stopping.is_set():
                raise ProfileError(failure or "stopped before the sweep", code="profile.stopped")
            rates_hz = sweep_rates(profile.run, info.step_s)
            result = run_sweep(
                measure, rates_hz, self._stopping, on_early_end=lambda why: notes.append(f"sweep: {why}")
            )
        except ProfileError as error:
            notes.append(f"sweep: not measured: {error}")
        return profile.model_copy(update={"sweep": result, "notes": notes}), failure

    def _energy(self, run: Run, busy: Sequence[Reading]) -> Energy:
        """Return the energy per image, if the machine reports power, after measuring the idle power."""
        idle: Sequence[Reading] = ()
        if measures_power(busy):
            with Monitor() as monitor:
                self._spin_for(IDLE_S)
            idle = monitor.readings()
        return measure_energy(idle, busy, frames=len(run.latency_ms), duration_s=run.duration_s)

    def _notes(self, ledger: FrameLedger, distinct: int, failure: str) -> list[str]:
        step_ms = (time.time_ns() - time.monotonic_ns() - self._offset_ns) / 1e6
        notes = {
            failure: bool(failure),
            f"stopped after {ledger.sent} of {ledger.frames} images": self._stopping.is_set(),
            f"the {distinct} preloaded images were repeated": distinct < ledger.sent,
            f"the system clock was stepped by {step_ms:.1f} ms; the measured times do not depend on it": (
                abs(step_ms) > _CLOCK_STEP_MS
            ),
            "measured on a graph with other nodes": self._server is None,
            f"last diagnostics: {self._listener.verdict}": bool(self._listener.verdict),
        }
        return [*(note for note, applies in notes.items() if applies), *ledger.notes()]


def _create_folder(path: Path) -> None:
    """Create the output folder before the run, so that a long measurement is not lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot be written: {error.strerror}", code="profile.not_writable"
        ) from error


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that a termination signal sets. A second signal ends the process with its default."""
    stopping = threading.Event()

    def stop(number: int, _: object) -> None:
        stopping.set()
        signal.signal(number, signal.default_int_handler)

    handle_termination_signals(stop)
    try:
        yield stopping
    finally:
        # Only cleanup remains: launch repeats Ctrl-C, and a second one would kill the process there.
        handle_termination_signals(signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
