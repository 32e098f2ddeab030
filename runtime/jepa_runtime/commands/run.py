"""``jepa-runtime run``: run a model on a source in real time, show it, and write the measurements."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live

from jepa_runtime.bundle import Bundle, Manifest
from jepa_runtime.commands.arguments import (
    message_console,
    open_model,
    read_image,
)
from jepa_runtime.commands.exit_status import ExitStatus, print_warning
from jepa_runtime.commands.run_summary import html_report, summarize_run
from jepa_runtime.commands.run_view import final_table, live_view
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.errors import (
    DeviceLostError,
    JepaRuntimeError,
    RecordingError,
    SourceError,
    printable,
)
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.collector import MAX_SAMPLES, Collector
from jepa_runtime.recording import check_outputs, check_separate
from jepa_runtime.recording.bag_folder import check_folder
from jepa_runtime.recording.black_box import BlackBox, Topics
from jepa_runtime.recording.run_recording import RunRecording
from jepa_runtime.reports.latency_page import render_latency
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.sources.base import Frame, Image, Source, check_commands, check_states
from jepa_runtime.sources.factory import is_camera, open_source, split_spec
from jepa_runtime.sources.playback import paced_frames
from jepa_runtime.util import systemd
from jepa_runtime.util.output_files import file_paths, write_each, write_json, write_text

if TYPE_CHECKING:
    from jepa_runtime.commands.run_robot import Follower

_DEFAULT_RATE_HZ = 30.0
_REFRESH_S = 0.5
_DRAIN_S = 5.0
# Pauses between attempts to open a camera, and the period of watchdog notifications meanwhile.
_FIRST_PAUSE_S, _MAX_PAUSE_S, _WATCHDOG_S = 1.0, 60.0, 10.0


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: An input is invalid, or the source or the recording failed; the measurements until
            then are written.
    """
    console = message_console(args, "json", "html")
    read = [Path(split_spec(args.source)[0]), *file_paths(args.bundle, args.goal)]
    if args.robot is not None:
        # Running a bundle does not need the update client, which is slow to import.
        from jepa_runtime.commands.run_robot import adopt

        read += adopt(args)
    check_outputs(file_paths(args.mcap, args.json, args.html), *read)
    if args.black_box is not None:
        check_separate(args.black_box, *read)
        check_folder(args.black_box)
    with ExitStack() as stack:
        stopping = stack.enter_context(stop_on_signals())
        source = _open_source(args, stopping)
        if source is None:
            return ExitStatus.OK
        stack.enter_context(closing(source))
        goal = None if args.goal is None else read_image(args.goal)
        return _Run(args, source, goal, stopping, console).play()


def _open_source(args: argparse.Namespace, stopping: Event) -> Source | None:
    """Open the source.

    A robot's service waits for a missing camera, with growing pauses: if the process ended, systemd would
    restart it each second, which occupies a core most of the time.

    Returns:
        The source, or None if a signal stopped the wait.

    Raises:
        SourceError: The source cannot be opened.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return open_source(args.source, rate_hz=args.rate)
        except SourceError as error:
            name, _ = split_spec(args.source)
            if args.robot is None or not (systemd.is_service() and is_camera(name)):
                raise
            print_warning("jepa-runtime", f"{printable(str(error))}; next attempt in {pause_s:g} s")
        # The update service starts after this one, and must not wait for a camera.
        systemd.notify(f"READY=1\nSTATUS=waiting for {name}")
        end_s = time.monotonic() + pause_s
        while (left_s := end_s - time.monotonic()) > 0:
            systemd.notify("WATCHDOG=1")
            if stopping.wait(min(left_s, _WATCHDOG_S)):
                systemd.notify("STOPPING=1")
                return None
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


class _Run:
    """One run, from the opened source to the files written at its end."""

    def __init__(
        self, args: argparse.Namespace, source: Source, goal: Image | None, stopping: Event, console: Console
    ) -> None:
        self._args, self._source, self._goal = args, source, goal
        self._stopping, self._console = stopping, console
        self._rate_hz = args.rate or source.rate_hz or _DEFAULT_RATE_HZ
        self._deadline_ms: float = args.deadline_ms or 1000.0 / self._rate_hz
        self._collector = Collector()
        self._recording: RunRecording | None = None
        self._black_box: BlackBox | None = None
        self._follower: Follower | None = None
        self._lateness_ms: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._actions_known = False
        self._last_error: str | None = None
        self._fatal: JepaRuntimeError | None = None
        model_folder = args.robot if args.bundle is None else args.bundle
        self._title = f"{Path(model_folder).name} on {Path(args.source.partition('?')[0]).name}"

    def play(self) -> int:
        with self._serving() as pipeline:
            if pipeline is None:
                return ExitStatus.OK
            if self._args.mcap is not None:
                self._recording = RunRecording(self._args.mcap, pipeline.model, jpeg=self._args.jpeg)
            if self._args.black_box is not None:
                self._black_box = BlackBox(self._args.black_box, streams={"": Topics()})
                self._black_box.set_model(pipeline.model)
                if pipeline.alarms_disabled_reason:
                    self._console.print(
                        f"surprise alarms are disabled: {pipeline.alarms_disabled_reason}", markup=False
                    )
            try:
                self._feed(pipeline)
            except (SourceError, RecordingError) as error:
                self._fatal = error
            pipeline.wait_idle(_DRAIN_S)
        summary = self._summary(pipeline)
        args, title = self._args, self._title
        # The files are written first: printing to a closed terminal fails.
        try:
            write_each(
                (args.json, lambda: write_json(args.json, summary)),
                (args.html, lambda: write_text(args.html, self._report(title, summary))),
            )
        except JepaRuntimeError as error:
            if self._fatal is not None:
                error = JepaRuntimeError(f"{self._fatal}; {error}", code=self._fatal.code)
            self._fatal = error
        self._show(pipeline, summary)
        if self._fatal is not None:
            raise self._fatal
        return ExitStatus.OK

    def _report(self, title: str, summary: dict[str, Any]) -> str:
        return render_latency(html_report(title, self._collector, summary))

    @contextmanager
    def _serving(self) -> Iterator[Pipeline | None]:
        """Yield the started pipeline, or None if a signal stopped the wait for a model."""
        with ExitStack() as stack:
            stack.callback(self._close_recording)
            stack.callback(self._close_black_box)
            if self._args.robot is not None:
                from jepa_runtime.commands.run_robot import Follower

                self._follower = Follower(self._args.robot, self._open, deadline_ms=self._deadline_ms)
                stack.enter_context(self._follower.answering())
                if not self._follower.await_model(self._stopping):
                    yield None
                    return
            pipeline = Pipeline(
                self._follower.open if self._follower else lambda: self._open(self._args.bundle),
                on_result=self._on_result,
                on_calibration=self._on_calibration,
                on_error=self._on_error,
                on_model=self._on_model,
                deadline_ms=self._deadline_ms,
            )
            pipeline.start()
            stack.callback(pipeline.stop)
            if self._follower is not None:
                stack.enter_context(self._follower.following(pipeline))
            yield pipeline

    def _open(self, bundle: str | Path | Bundle) -> WorldModel:
        return open_model(self._args, bundle)

    def _feed(self, pipeline: Pipeline) -> None:
        check_commands(self._source, pipeline.model.manifest)
        check_states(self._source, pipeline.model.manifest)
        goal: Image | None = None
        with self._live() as refresh:
            frames = paced_frames(
                self._source,
                rate_hz=self._rate_hz,
                by_stamps=self._args.rate is None,
                duration_s=self._args.duration,
                stopping=self._stopping,
            )
            for frame, late_ms in frames:
                self._lateness_ms.append(late_ms)
                new_goal = self._source.goal if self._goal is None else self._goal
                if new_goal is not goal:
                    goal = new_goal
                    pipeline.set_goal(goal, frame.stamp_ns)
                    if self._recording is not None:
                        self._recording.add_goal(goal, frame.stamp_ns)
                command = self._command(pipeline.model.manifest)
                if command is not None:
                    self._actions_known = True
                    pipeline.add_action(frame.stamp_ns, command)
                state = self._source.state if pipeline.model.manifest.state_size else None
                if state is not None:
                    pipeline.add_state(*state)
                    for bag in self._bags():
                        bag.add_state(*state)
                if self._black_box is not None:
                    self._black_box.add_frame(frame)
                    if command is not None:
                        self._black_box.add_command(frame.stamp_ns, command)
                pipeline.submit(frame)
                if self._recording is not None:
                    self._recording.add_frame(frame, command)
                refresh(pipeline)
        if self._source.live:
            self._lateness_ms.clear()

    def _command(self, manifest: Manifest) -> NDArray[np.float32] | None:
        """Return the executed command, or None if it is unknown or the model takes no actions."""
        command, names = self._source.command, manifest.io.action.names
        if command is None or not manifest.takes_actions:
            return None
        if len(command) != len(names):
            raise SourceError(
                f"{self._source.name}: commands have {len(command)} components, the model's actions have "
                f"{len(names)} ({', '.join(names)}): select the fields with ?action=TOPIC:FIELD,FIELD",
                code="source.action_mismatch",
            )
        return command

    @contextmanager
    def _live(self) -> Iterator[Any]:
        if not self._console.is_terminal:
            yield lambda pipeline: None
            return
        every = max(1, round(self._rate_hz * _REFRESH_S))
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def refresh(pipeline: Pipeline) -> None:
                stats = pipeline.stats()
                if stats.received % every == 0:
                    view = live_view(self._title, self._collector, stats, self._deadline_ms)
                    live.update(view, refresh=True)

            yield refresh

    def _on_result(self, result: Result) -> None:
        self._collector.add(result)
        if self._follower is not None:
            self._follower.result(result)
        for bag in self._bags():
            bag.add_result(result)

    def _on_calibration(self, result: Result) -> None:
        for bag in self._bags():
            bag.add_alarms(result)

    def _on_model(self, model: WorldModel, _: bool) -> None:
        if self._follower is not None:
            self._follower.serves(model)
        for bag in self._bags():
            bag.set_model(model)

    def _bags(self) -> list[RunRecording | BlackBox]:
        return [bag for bag in (self._recording, self._black_box) if bag is not None]

    def _on_error(self, error: Exception, frame: Frame | None) -> None:
        self._last_error = f"{type(error).__name__}: {error}"
        if self._follower is not None and frame is not None:
            self._follower.failed(error)
        if isinstance(error, RecordingError | DeviceLostError):
            self._fatal = error
            self._stopping.set()

    def _close_recording(self) -> None:
        if self._recording is None:
            return
        if not self._recording.frames:
            # An empty file would block the next attempt.
            self._recording.discard()
            return
        try:
            self._recording.close()
        except RecordingError as error:
            self._fatal = error
        if self._recording.stamp_decreases:
            self._console.print(
                f"stamps decreased {self._recording.stamp_decreases} times: {self._args.mcap} is read in the "
                "order of stamps, not of arrival, so a replay gives different outputs",
                markup=False,
                style="yellow",
            )

    def _close_black_box(self) -> None:
        box = self._black_box
        if box is None:
            return
        box.close()
        self._last_error = box.fault or self._last_error
        self._console.print(
            f"{box.written} bags of surprises written to {self._args.black_box}", markup=False
        )

    def _summary(self, pipeline: Pipeline) -> dict[str, Any]:
        """Return the measurements."""
        stats = pipeline.stats()
        if stats.received and not stats.processed and self._fatal is None:
            reason = pipeline.clip_obstacle() or f"last error: {self._last_error}"
            self._fatal = JepaRuntimeError(
                f"none of {stats.received} frames was processed; {reason}",
                code="source.no_frame_processed",
            )
        return summarize_run(
            self._collector,
            stats,
            pipeline.model,
            source=self._source.name,
            target_rate_hz=self._rate_hz,
            deadline_ms=self._deadline_ms,
            lateness_ms=self._lateness_ms,
            error=str(self._fatal) if self._fatal is not None else self._last_error,
        )

    def _show(self, pipeline: Pipeline, summary: dict[str, Any]) -> None:
        self._console.print(final_table(self._title, summary))
        missing = self._missing(pipeline.model.manifest, summary) if pipeline.stats().processed else None
        if missing is not None:
            self._console.print(missing, markup=False, style="yellow")
        if self._last_error is not None and self._fatal is None:
            self._console.print(f"last error: {self._last_error}", markup=False)

    def _missing(self, manifest: Manifest, summary: dict[str, Any]) -> str | None:
        """Return which outputs are missing and why, or None."""
        predicted = "predict_ms" in summary
        if manifest.io.state is not None and not predicted:
            return (
                "no futures: no image had a state of the robot within an eighth of the model's step "
                f"({manifest.io.step_s / 8:g} s) of its stamp: check that images and states use one clock, "
                "and that states were recorded often enough"
            )
        if manifest.takes_actions and not self._actions_known and self._source.commands is None:
            missing, names = "surprise" if predicted else "futures", ",".join(manifest.io.action.names)
            return (
                f"no {missing}: the executed actions are unknown; for a bag, name the commands: "
                f"?action=TOPIC:{names}"
            )
        if predicted:
            return None
        return (
            f"no futures: no frame was one step ({manifest.io.step_s:g} s) after another, or the actions "
            "executed between them are unknown"
        )
