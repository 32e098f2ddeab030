"""``jepa-runtime view``: show a run in Rerun, recorded or live."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from threading import Event
from typing import Any

import numpy as np

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import (
    open_console,
    progress_on,
)
from jepa_runtime.commands.exit_status import UsageError
from jepa_runtime.commands.report import atlas_of
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording import check_outputs
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.sources.bag_file import BagFile
from jepa_runtime.sources.base import Source, check_commands, check_states
from jepa_runtime.sources.factory import open_source, split_spec
from jepa_runtime.sources.playback import paced_frames
from jepa_runtime.util.output_files import file_paths
from jepa_runtime.visualization.atlas import Atlas, thumbnail
from jepa_runtime.visualization.bag_overlay import TRAIL_S, trail_of
from jepa_runtime.visualization.embedding import Image
from jepa_runtime.visualization.growing_atlas import GrowingAtlas
from jepa_runtime.visualization.predictions import Predictions
from jepa_runtime.visualization.rerun_viewer import RerunViewer
from jepa_runtime.visualization.run_data import Run, read_run

_DRAIN_S = 5.0
_CAMERA_PX = 640
_NS = 1_000_000_000


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        UsageError: Both a bag and a source were given.
        JepaRuntimeError: An input cannot be read or would be overwritten, or Rerun is not installed.
    """
    live = args.source is not None
    if live and args.bundle is not None:
        raise UsageError("either a bag or --source is shown, not both")
    read = [args.input, *file_paths(args.bundle, split_spec(args.source)[0] if live else None)]
    check_outputs(file_paths(args.output), *read)
    if live:
        _show_live(args)
    else:
        _show_bag(args)
    if args.output is not None:
        open_console().print(f"  {args.output}", highlight=False, soft_wrap=True)
    return 0


def _show_bag(args: argparse.Namespace) -> None:
    with progress_on(open_console()) as progress:
        task = progress.add_task("reading", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        found = read_run(args.input, node=args.node, image=args.image, progress=report)
        atlas = None if args.bundle is None else atlas_of(args.bundle, found.latents.shape[1:])
    with RerunViewer(args.output) as viewer:
        _show_figures(found, viewer)
        for stamp, jpeg in found.goals:
            viewer.goal(stamp, jpeg)
        for index, frame in enumerate(found.frames_with_image):
            viewer.camera(int(found.stamps_ns[frame]), found.atlas.images[index])
        _show_futures(args, found, atlas or found.atlas, viewer)


def _show_figures(found: Run, viewer: RerunViewer) -> None:
    series = {"surprise/value": found.surprise, "surprise/threshold": found.threshold}
    series |= {f"latency/{name}": points for name, points in found.latency_ms.items() if name != "predict"}
    for name, points in series.items():
        for second, value in zip(points.times_s, points.values, strict=True):
            viewer.scalar(name.replace(" ", "_"), float(value), found.start_ns + round(second * _NS))


def _show_futures(args: argparse.Namespace, found: Run, atlas: Atlas, viewer: RerunViewer) -> None:
    due_ns = 0
    with BagFile(args.input) as bag:
        for _, _, message in bag.read([f"{found.prefix}/futures"]):
            predictions = Predictions.from_message(message)
            if predictions.stamp_ns < due_ns:
                continue
            due_ns = predictions.stamp_ns + round(_NS / args.rate)
            trail = trail_of(found, predictions.stamp_ns)
            viewer.latent(predictions.stamp_ns, trail, atlas)
            viewer.predictions(predictions, trail[-1], atlas)


def _show_live(args: argparse.Namespace) -> None:
    bundle = Bundle.open(args.input)
    with ExitStack() as stack:
        stopping = stack.enter_context(stop_on_signals())
        source = stack.enter_context(closing(open_source(args.source)))
        viewer = stack.enter_context(RerunViewer(args.output))
        rate_hz = source.rate_hz or bundle.manifest.io.frame.rate_hz
        shown = _Live(viewer, bundle, rate_hz=rate_hz, shown_hz=min(args.rate, rate_hz))
        pipeline = Pipeline(
            lambda: WorldModel.open(
                bundle,
                engine=args.engine,
                options=BackendOptions(cache_dir=args.cache_dir),
                allow_untrained=args.allow_untrained,
            ),
            on_result=shown.result,
            on_error=lambda error, frame: shown.errors.append(error),
        )
        pipeline.start()
        stack.callback(pipeline.stop)
        check_commands(source, pipeline.model.manifest)
        check_states(source, pipeline.model.manifest)
        _feed(pipeline, source, shown.frame, rate_hz, args.duration, stopping)
        pipeline.wait_idle(_DRAIN_S)
        if not pipeline.stats().processed and shown.errors:
            raise JepaRuntimeError(
                f"{args.source}: no frame was processed; the last error: {shown.errors[-1]}",
                code="source.no_frame_processed",
            )


def _feed(
    pipeline: Pipeline,
    source: Source,
    on_frame: Callable[[int, Image], None],
    rate_hz: float,
    duration_s: float | None,
    stopping: Event,
) -> None:
    goal: Image | None = None
    frames = paced_frames(source, rate_hz=rate_hz, by_stamps=True, duration_s=duration_s, stopping=stopping)
    for frame, _ in frames:
        if source.goal is not goal:
            goal = source.goal
            pipeline.set_goal(goal, frame.stamp_ns)
        if source.command is not None:
            pipeline.add_action(frame.stamp_ns, source.command)
        if pipeline.model.manifest.state_size and source.state is not None:
            pipeline.add_state(*source.state)
        on_frame(frame.stamp_ns, frame.image)
        pipeline.submit(frame)


class _Live:
    """Shows results as they arrive; all but the scalars at a limited rate.

    Args:
        viewer: The viewer.
        bundle: The bundle of the model.
        rate_hz: The rate of frames.
        shown_hz: The highest rate of images and futures.
    """

    def __init__(self, viewer: RerunViewer, bundle: Bundle, *, rate_hz: float, shown_hz: float) -> None:
        manifest = bundle.manifest
        self.errors: deque[Exception] = deque(maxlen=1)
        self._viewer, self._every_ns, self._due_ns = viewer, round(_NS / shown_hz), 0
        self._step_s, self._threshold = manifest.io.step_s, manifest.surprise_threshold
        self._atlas = Atlas.from_bundle(bundle)
        self._growing_atlas = GrowingAtlas(max(1, round(manifest.horizon * manifest.io.step_s * shown_hz)))
        self._trail: deque[Any] = deque(maxlen=max(1, round(TRAIL_S * rate_hz)))
        # The pipeline holds one waiting frame and one in progress; a few more do no harm.
        self._images: deque[tuple[int, Image]] = deque(maxlen=8)

    def frame(self, stamp_ns: int, image: Image) -> None:
        """Store a frame that was sent to the model."""
        self._images.append((stamp_ns, image))

    def result(self, result: Result) -> None:
        """Show the result of a frame; called on the thread of the pipeline."""
        stamp = result.stamp_ns
        self._trail.append(result.latent)
        self._viewer.scalar("latency/total", result.timings_ms["total"], stamp)
        if result.surprise is not None:
            self._viewer.scalar("surprise/value", result.surprise, stamp)
            self._viewer.scalar("surprise/threshold", self._threshold, stamp)
        if stamp < self._due_ns:
            return
        self._due_ns = stamp + self._every_ns
        image = dict(self._images).get(stamp)
        if image is not None:
            self._viewer.camera(stamp, thumbnail(image, _CAMERA_PX))
            self._growing_atlas.add(result.latent, image)
        atlas = self._atlas or self._growing_atlas.atlas()
        predictions = Predictions.from_result(result, self._step_s)
        if atlas is not None:
            self._viewer.latent(stamp, np.stack(self._trail), atlas)
        if atlas is not None and predictions is not None:
            self._viewer.predictions(predictions, result.latent, atlas)
