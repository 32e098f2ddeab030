"""``jepa-runtime run``: play a source through a model in real time, show it, and keep what was measured."""

from __future__ import annotations

import argparse
import sys
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
    add_json_argument,
    add_model_arguments,
    mcap_file,
    open_console,
    open_model,
    positive,
    rate,
)
from jepa_runtime.commands.run_summary import html_report, summarize_run
from jepa_runtime.commands.run_view import final_table, live_view
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.errors import (
    DeviceLostError,
    FrameError,
    JepaRuntimeError,
    RecordingError,
    SourceError,
    printable,
)
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.collector import MOST_SAMPLES, Collector
from jepa_runtime.recording import check_outputs, check_separate
from jepa_runtime.recording.bag_folder import check_folder
from jepa_runtime.recording.black_box import BlackBox, Topics
from jepa_runtime.recording.run_recording import RunRecording
from jepa_runtime.reports.latency_page import render
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.sources.base import Frame, Image, Source, check_commands
from jepa_runtime.sources.factory import is_camera, open_source, split_spec
from jepa_runtime.sources.playback import paced_frames
from jepa_runtime.util import systemd
from jepa_runtime.util.output_files import STDOUT, file_paths, write, write_each, write_json

if TYPE_CHECKING:
    from jepa_runtime.commands.run_robot import Follower

_DEFAULT_RATE_HZ = 30.0
_REFRESH_S = 0.5
_DRAIN_S = 5.0
# Between two looks for a camera, and between two signs of life meanwhile.
_FIRST_PAUSE_S, _MOST_PAUSE_S, _ALIVE_S = 1.0, 60.0, 10.0


def add_parser(subparsers: Any) -> None:
    """Add ``run`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "run",
        help="play a source through a model in real time",
        description="Play a source through a model in real time: latents, predicted futures, energies and "
        "surprise, with the latency of every stage. Frames are due at a fixed rate whatever the model does; "
        "one that finds the last one still waiting replaces it, and the drop is counted.",
    )
    add_arguments(parser)
    parser.add_argument("--mcap", type=mcap_file, metavar="FILE", help="record as `jepa-runtime record` does")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`run` reads, but where it records."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--bundle", metavar="FOLDER", help="the model bundle")
    model.add_argument(
        "--robot",
        type=Path,
        metavar="DIR",
        help="the folder of a robot (`jepa-runtime update provision`): serve what is current there; updates "
        "exchange it in service, watch it and take it back if it fails",
    )
    parser.add_argument(
        "--source",
        required=True,
        metavar="S",
        help="two_rooms[?seed=N&layout=fixed], a video, a folder of images, /dev/videoN, "
        "BAG.mcap[?topic=/name&action=/cmd_vel:linear.x,angular.z]",
    )
    parser.add_argument(
        "--rate", type=rate, metavar="HZ", help="frames per second (default: the source's own, else 30)"
    )
    parser.add_argument(
        "--duration", type=positive, metavar="S", help="seconds to run (default: until the source ends)"
    )
    parser.add_argument(
        "--goal", metavar="IMAGE", help="a PNG or JPEG of the goal (default: the source's own, if it has one)"
    )
    add_model_arguments(parser, first="the robot's, else")
    parser.add_argument(
        "--deadline-ms", type=positive, metavar="MS", help="deadline per frame (default: one period)"
    )
    add_json_argument(parser, "the measurements")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a latency report there")
    parser.add_argument(
        "--jpeg",
        action="store_true",
        help="record frames as JPEG: a fraction of the room, but not the pixels that the model saw, so a "
        "replay gives other outputs",
    )
    parser.add_argument(
        "--black-box",
        type=Path,
        metavar="DIR",
        help="write the seconds around every surprise there, as bags that can be played again",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; 0 when the source ended, the time was up, or a signal asked to stop.

    Raises:
        JepaRuntimeError: bad input, or the source or the recording failed; what was measured until then is
            kept.
    """
    read = [Path(split_spec(args.source)[0]), *file_paths(args.bundle, args.goal)]
    if args.robot is not None:
        # Whoever runs a bundle need not wait until all of the updates is imported.
        from jepa_runtime.commands.run_robot import adopt

        read += adopt(args)
    check_outputs(file_paths(args.mcap, args.json, args.html), *read)
    if args.black_box is not None:
        check_separate(args.black_box, *read)
        check_folder(args.black_box)
    console = open_console(stderr=args.json == STDOUT)
    with ExitStack() as stack:
        stopping = stack.enter_context(stop_on_signals())
        source = _open_source(args, stopping)
        if source is None:
            return 0
        stack.enter_context(closing(source))
        goal = None if args.goal is None else _read_image(args.goal)
        return _Run(args, source, goal, stopping, console).play()


def _open_source(args: argparse.Namespace, stopping: Event) -> Source | None:
    """Open the source. The service of a robot waits for a camera that is not there, and looks for it less and
    less often: a process that ends is started again each second, which takes a processor most of the time.

    Returns:
        The source; None: a signal asked to stop meanwhile.

    Raises:
        SourceError: it cannot be opened.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return open_source(args.source, rate_hz=args.rate)
        except SourceError as error:
            name, _ = split_spec(args.source)
            if args.robot is None or not (systemd.is_service() and is_camera(name)):
                raise
            print(f"jepa-runtime run: {printable(str(error))}; next look in {pause_s:g} s", file=sys.stderr)
        # Updates start after this service, and do not wait for a camera.
        systemd.notify(f"READY=1\nSTATUS=waits for {name}")
        ends = time.monotonic() + pause_s
        while (left_s := ends - time.monotonic()) > 0:
            systemd.notify("WATCHDOG=1")
            if stopping.wait(min(left_s, _ALIVE_S)):
                systemd.notify("STOPPING=1")
                return None
        pause_s = min(2 * pause_s, _MOST_PAUSE_S)


class _Run:
    """One run, from the open source to the files it leaves."""

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
        self._lateness_ms: deque[float] = deque(maxlen=MOST_SAMPLES)
        self._knows_actions = False
        self._last_error: str | None = None
        self._fatal: JepaRuntimeError | None = None
        served = args.robot if args.bundle is None else args.bundle
        self._title = f"{Path(served).name} on {Path(args.source.partition('?')[0]).name}"

    def play(self) -> int:
        with self._serving() as pipeline:
            if pipeline is None:
                return 0
            if self._args.mcap is not None:
                self._recording = RunRecording(self._args.mcap, pipeline.model, jpeg=self._args.jpeg)
            if self._args.black_box is not None:
                self._black_box = BlackBox(self._args.black_box, streams={"": Topics()})
                self._black_box.set_model(pipeline.model)
                if pipeline.alarms_disabled_reason:
                    self._console.print(
                        f"no surprise will be found: {pipeline.alarms_disabled_reason}", markup=False
                    )
            try:
                self._feed(pipeline)
            except (SourceError, RecordingError) as error:
                self._fatal = error
            pipeline.wait_idle(_DRAIN_S)
        summary = self._summary(pipeline)
        args, title = self._args, self._title
        # Before anything is shown: a terminal that is gone must not take the files with it.
        try:
            write_each(
                (args.json, lambda: write_json(args.json, summary)),
                (args.html, lambda: write(args.html, render(html_report(title, self._collector, summary)))),
            )
        except JepaRuntimeError as error:
            self._fatal = JepaRuntimeError(f"{self._fatal}; {error}") if self._fatal else error
        self._show(pipeline, summary)
        if self._fatal is not None:
            raise self._fatal
        return 0

    @contextmanager
    def _serving(self) -> Iterator[Pipeline | None]:
        """The pipeline, started; None: a signal asked to stop before there was a model to open."""
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
        goal: Image | None = None
        with self._live() as refresh:
            frames = paced_frames(
                self._source, rate_hz=self._rate_hz, duration_s=self._args.duration, stopping=self._stopping
            )
            for frame, late_ms in frames:
                self._lateness_ms.append(late_ms)
                wanted = self._source.goal if self._goal is None else self._goal
                if wanted is not goal:
                    goal = wanted
                    pipeline.set_goal(goal, frame.stamp_ns)
                    if self._recording is not None:
                        self._recording.add_goal(goal, frame.stamp_ns)
                command = self._command(pipeline.model.manifest)
                if command is not None:
                    self._knows_actions = True
                    pipeline.add_action(frame.stamp_ns, command)
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
        """What the robot executes now; None: it is not known, or is nothing to a model without actions."""
        command, names = self._source.command, manifest.io.action.names
        if command is None or not manifest.takes_actions:
            return None
        if len(command) != len(names):
            raise SourceError(
                f"{self._source.name}: commands have {len(command)} components, an action of the model has "
                f"{len(names)} ({', '.join(names)}): say which (?action=TOPIC:FIELD,FIELD)"
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
            # It would only be in the way of the next try.
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
        """The measurements."""
        stats = pipeline.stats()
        if stats.received and not stats.processed and self._fatal is None:
            self._fatal = JepaRuntimeError(
                f"not one of {stats.received} frames was processed; last error: {self._last_error}"
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
        lack = self._lack(pipeline.model.manifest, summary) if pipeline.stats().processed else None
        if lack is not None:
            self._console.print(lack, markup=False, style="yellow")
        if self._last_error is not None and self._fatal is None:
            self._console.print(f"last error: {self._last_error}", markup=False)

    def _lack(self, manifest: Manifest, summary: dict[str, Any]) -> str | None:
        """What did not come of the run, and why."""
        foresaw = "predict_ms" in summary
        if manifest.takes_actions and not self._knows_actions and self._source.commands is None:
            missing, names = "surprise" if foresaw else "futures", ",".join(manifest.io.action.names)
            return (
                f"no {missing}: what was executed is not known; of a bag say which commands are the actions: "
                f"?action=TOPIC:{names}"
            )
        if foresaw:
            return None
        return (
            f"no futures: no image had another a step ({manifest.io.step_s:g} s) before it, or what was "
            "executed between them is not known"
        )


def _read_image(path: str) -> Image:
    try:
        return decode(Path(path).read_bytes())
    except (OSError, FrameError) as error:
        raise SourceError(f"{path}: no such image, or not a readable PNG or JPEG") from error
