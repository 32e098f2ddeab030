"""Latency of the world model on a running graph, seen from another process.

A camera process publishes images on an exact schedule, the world model answers, and this process receives the
futures: three processes, as on a robot. An image's latency counts from the moment it was due to the moment
its futures were here, deserialised. Its stages adjoin each other: ``receive`` (the camera was late),
``transport`` (from the camera's call of publish to the callback in the node), the stages that the node tells
in ~/stage_times, and ``delivery`` (from the node's publish to the callback here).
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
from jepa_ros.profiler.profile_result import profile_of, sweep_rates
from jepa_ros.profiler.view import View, summary
from jepa_ros.start import when_to_end
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.profiling.profile import Profile, Run, Sweep, write_profile
from jepa_runtime.profiling.sweep import sweep
from jepa_runtime.telemetry import IDLE_S, Monitor, energy, measures_power
from jepa_runtime.telemetry.measurements import Energy, Reading

T = TypeVar("T")

_NODE = "/world_model"
_LOAD_TIMEOUT_S = 120.0
_DISCOVERY_S = 3.0
_ANSWER_TIMEOUT_S = 2 * _DISCOVERY_S
_FIRST_RESULT_TIMEOUT_S = 30.0
_WARM_UP_S = 1.0
# Without another result for this long none will come.
_SILENCE_S = 2.0
# From the word to start until the first image is due.
_LEAD_NS = 100_000_000
# The system's clock is slewed all the time; more than this is a step.
_MOVED_MS = 1.0
_POLL_S = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``ros2 run jepa_ros profiler``; 0 if the run was measured, 1 after an error."""
    options = parse(arguments)
    prepare_environment(alone=options.attach is None)
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
    """One measurement. ``stack`` ends what was started here, whatever happens."""

    def __init__(self, options: argparse.Namespace, stopping: threading.Event, stack: ExitStack) -> None:
        self._options = options
        self._stopping = stopping
        self._stack = stack
        self._logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jepa-profiler-")))
        self._frames = max(1, round(options.duration * options.rate))
        self._usual_ms = 0.0  # of a run before
        # Moments are read from the clock that nobody sets, and only the stamps are the system's.
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._listener = Listener(options.attach or _NODE)
        self._listens_since = time.monotonic()
        self._executor = create_executor()
        self._executor.add_node(self._listener)
        stack.callback(self._listener.destroy_node)
        stack.callback(self._executor.shutdown)
        self._server = None if options.attach else self._start_server()
        self._console = Console()

    def measure(self) -> str:
        """Measure, write the profile, show it; what went wrong, or nothing."""
        _make_folder(self._options.out)
        info, pid = self._await_server()
        if self._server is not None:
            self._check_alone()
        self._listener.listen(self._options.topic)
        camera, size, distinct = self._start_camera(info)
        self._warm_up(camera)
        options = self._options
        title = f"{options.source} at {options.rate:g} Hz"
        with Monitor(pid=pid) as monitor:
            ledger, failure = self._run(camera, options.rate, options.duration, title)
        run = ledger.run(self._options.deadline_ms)
        readings = monitor.readings(since_s=ledger.start_ns / 1e9)
        if self._stopping.is_set() and not run.latency_ms:
            raise ProfileError("stopped before anything was measured")
        if not run.latency_ms:
            raise ProfileError(failure or f"none of {ledger.sent} images gave a result{self._server_log()}")
        profile = profile_of(
            options,
            info=info,
            run=run,
            readings=readings,
            energy=self._energy(run, readings),
            frame_size=size,
            notes=[*self._notes(ledger, distinct, failure), *monitor.notes()],
        )
        write_profile(profile, options.out)
        if options.sweep:
            profile, failure = self._swept(camera, profile, info, failure)
            write_profile(profile, options.out)
        camera.stop()
        if not options.quiet:
            self._console.print(summary(profile))
            self._console.print(f"profile: {options.out}", markup=False, highlight=False)
        return failure

    # --- before

    def _start_server(self) -> Child:
        remaps = {"image": self._options.topic}
        command = node_command("world_model", node_parameters(self._options), remaps)
        return self._stack.enter_context(Child("world_model", command, self._logs / "world_model.log"))

    def _await_server(self) -> tuple[ModelInfo, int]:
        """What the world model serves, and its process."""
        name, listener = self._options.attach or _NODE, self._listener
        timeout_s = _ANSWER_TIMEOUT_S if self._server is None else _LOAD_TIMEOUT_S
        info = self._until(
            lambda: listener.info,
            timeout_s,
            lambda: f"{name}: no active world model of this name; {listener.seen()}",
        )
        pid = self._until(
            lambda: listener.pid if self._server is None else self._server.process.pid,
            _ANSWER_TIMEOUT_S,
            lambda: (
                f"{name}: its diagnostics name no process of this host, and moments of two hosts "
                "cannot be compared: run the profiler where the world model runs"
            ),
        )
        return info, pid

    def _check_alone(self) -> None:
        """Commands are published next: nobody may be there who could obey them.

        Raises:
            ProfileError: another node is on this graph.
        """
        self._rest(self._listens_since + _DISCOVERY_S - time.monotonic())
        if others := self._listener.others():
            raise ProfileError(
                f"the graph of ROS_DOMAIN_ID {self._listener.context.get_domain_id()} is not the profiler's "
                f"own: {', '.join(others)} could obey the commands that go with the images; try again: "
                "each run takes a domain at random"
            )

    def _start_camera(self, info: ModelInfo) -> tuple[Child, tuple[int, int], int]:
        """The camera once it is ready, the size of its images, and how many distinct ones it has."""
        options = self._options
        others = self._listener.count_publishers(self._listener.resolve_topic_name(options.topic))
        if others:
            raise ProfileError(
                f"{options.topic}: {others} other publishers of images; stop them, or choose another --topic"
            )
        takes_actions = info.action_low != info.action_high
        command = camera_command(
            source=options.source,
            topic=options.topic,
            rate_hz=options.rate,
            frames=self._frames,
            offset_ns=self._offset_ns,
            size=options.size,
            # Commands to a graph that is not our own could move a robot.
            actions=info.action_names if takes_actions and self._server is not None else [],
        )
        camera = self._stack.enter_context(Child("camera", command, self._logs / "camera.log", piped=True))
        said = self._until(
            camera.said, _LOAD_TIMEOUT_S, lambda: f"{options.source}: it took too long to read", camera
        )
        ready = said[0]["ready"]
        width, height = ready["size"]
        return camera, (width, height), ready["distinct"]

    def _warm_up(self, camera: Child) -> None:
        """Until the whole path answers, and caches and allocators have seen it for a while."""
        answers = self._listener.answers
        began = time.monotonic()
        self._until(
            lambda: answers["stage_times"] and (answers["futures"] or answers["latent"]),
            _FIRST_RESULT_TIMEOUT_S + 1 / self._options.rate,
            lambda: f"images are published on {self._options.topic}, but {self._unanswered()}",
            camera,
        )
        self._rest(began + _WARM_UP_S - time.monotonic())

    def _unanswered(self) -> str:
        missing = [name for name in ("latent", "stage_times") if not self._listener.answers[name]]
        verdict = self._listener.verdict
        said = f" (its diagnostics say {verdict})" if verdict else ""
        return f"nothing came on {' and '.join(missing)} of the world model{said}{self._server_log()}"

    def _until(
        self,
        condition: Callable[[], T | None],
        timeout_s: float,
        explain: Callable[[], str],
        camera: Child | None = None,
    ) -> T:
        """Spin until ``condition`` returns something true, and return that.

        Raises:
            ProfileError: it did not in time, a process has ended, or a signal asked to stop.
        """
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            for child in (self._server, camera):
                if child is not None and child.end:
                    raise ProfileError(f"{child.end}{child.excerpt()}")
            if self._stopping.is_set():
                raise ProfileError("stopped before anything was measured")
            if time.monotonic() > deadline:
                raise ProfileError(explain())
            self._executor.spin_once(timeout_sec=_POLL_S)
        return found

    def _rest(self, duration_s: float) -> None:
        """Handle what comes for a while, at most until a signal."""
        end = time.monotonic() + duration_s
        while time.monotonic() < end and not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=_POLL_S)

    def _server_log(self) -> str:
        return "" if self._server is None else self._server.excerpt()

    # --- the run

    def _run(
        self, camera: Child, rate_hz: float, duration_s: float, title: str, *, lead: int = 0
    ) -> tuple[FrameLedger, str]:
        """Everything the schedule asks for, or until a signal; what went wrong, or nothing."""
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
        # A collection of everything that was imported would hold up an answer.
        gc.freeze()
        camera.tell(asdict(schedule))
        with View(title, duration_s, self._console) as view:
            while not self._stopping.is_set() and not self._over(camera, ledger):
                self._executor.spin_once(timeout_sec=_POLL_S)
                for index, moment_ns in camera.said():
                    ledger.add_sent(index, moment_ns)
                failure = failure or self._trouble(camera, ledger)
                view.show(ledger, failure or listener.verdict)
        return ledger, failure or self._trouble(camera, ledger)

    def _over(self, camera: Child, ledger: FrameLedger) -> bool:
        """Whether no more images are published and no more answers can be expected."""
        if ledger.sent < ledger.frames and not camera.process.poll():
            return False
        return ledger.idle or self._silent_s(ledger) > self._patience_s(ledger)

    def _trouble(self, camera: Child, ledger: FrameLedger) -> str:
        elapsed_s = (time.monotonic_ns() - ledger.start_ns) / 1e9
        if self._server is not None and self._server.end:
            return f"{self._server.end} after {elapsed_s:.1f} s: images from then on were dropped"
        if camera.process.poll():
            return f"{camera.end} after {ledger.sent} of {ledger.frames} images{camera.excerpt()}"
        silent_s = self._silent_s(ledger)
        if 0 < ledger.sent < ledger.frames and silent_s > 1 / ledger.rate_hz + self._patience_s(ledger):
            return f"the world model fell silent after {elapsed_s - silent_s:.1f} s"
        return ""

    def _patience_s(self, ledger: FrameLedger) -> float:
        """A world model that has been silent for longer has no more to say."""
        return max(_SILENCE_S, 3 * max(ledger.recent_ms, default=self._usual_ms) / 1e3)

    def _silent_s(self, ledger: FrameLedger) -> float:
        """For how long nothing came although something could have."""
        since_ns = max(self._listener.answered_ns, ledger.start_ns)
        if ledger.sent == ledger.frames:
            since_ns = max(since_ns, ledger.due_ns(ledger.frames - 1))
        return (time.monotonic_ns() - since_ns) / 1e9

    def _swept(self, camera: Child, profile: Profile, info: ModelInfo, failure: str) -> tuple[Profile, str]:
        """The profile with rising rates to the knee, or a note of why there are none; and ``failure``, or
        what went wrong meanwhile."""
        notes = list(profile.notes)
        self._usual_ms = max(profile.run.latency_ms)

        def measure(rate_hz: float) -> Run:
            nonlocal failure
            lead = math.ceil(info.history_size * info.step_s * rate_hz) + 2
            title, seconds = f"sweep at {rate_hz:g} Hz", self._options.sweep
            ledger, failure = self._run(camera, rate_hz, seconds, title, lead=lead)
            if failure:
                raise ProfileError(failure)
            return ledger.run(1e3 / rate_hz)

        found: Sweep | None = None
        try:
            if failure or self._stopping.is_set():
                raise ProfileError(failure or "it was stopped before")
            rates_hz = sweep_rates(profile.run, info.step_s)
            found = sweep(
                measure, rates_hz, self._stopping, on_early_end=lambda why: notes.append(f"sweep: {why}")
            )
        except ProfileError as error:
            notes.append(f"sweep: not measured: {error}")
        return profile.model_copy(update={"sweep": found, "notes": notes}), failure

    def _energy(self, run: Run, busy: Sequence[Reading]) -> Energy:
        """Of an image, if the machine tells power: then it is watched for a moment while nothing is done."""
        idle: Sequence[Reading] = ()
        if measures_power(busy):
            with Monitor() as monitor:
                self._rest(IDLE_S)
            idle = monitor.readings()
        return energy(idle, busy, frames=len(run.latency_ms), duration_s=run.duration_s)

    def _notes(self, ledger: FrameLedger, distinct: int, failure: str) -> list[str]:
        moved_ms = (time.time_ns() - time.monotonic_ns() - self._offset_ns) / 1e6
        known = {
            failure: bool(failure),
            f"stopped after {ledger.sent} of {ledger.frames} images": self._stopping.is_set(),
            f"the {distinct} images that were read ahead were repeated": distinct < ledger.sent,
            f"the system's clock was moved by {moved_ms:.1f} ms; moments are not read from it": (
                abs(moved_ms) > _MOVED_MS
            ),
            "measured on a graph that others share": self._server is None,
            f"the last diagnostics were {self._listener.verdict}": bool(self._listener.verdict),
        }
        return [*(note for note, holds in known.items() if holds), *ledger.notes()]


def _make_folder(path: Path) -> None:
    """Before the run: who has waited an hour should not learn then that there was nowhere to write."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that a signal to end sets; a second one ends the process as if nobody listened."""
    stopping = threading.Event()

    def stop(number: int, _: object) -> None:
        stopping.set()
        signal.signal(number, signal.default_int_handler)

    when_to_end(stop)
    try:
        yield stopping
    finally:
        # What is left to do is to end: launch repeats Ctrl-C, and a second one would kill it there.
        when_to_end(signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
