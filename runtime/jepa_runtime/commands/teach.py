"""``jepa-runtime teach``: record a route, or encode one again for another model."""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from threading import Event

from rich.progress import Progress

from jepa_runtime.commands.arguments import message_console, open_model, progress_on
from jepa_runtime.commands.exit_status import ExitStatus, UsageError
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.errors import RouteError, SourceError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording import check_outputs
from jepa_runtime.routes.recorder import RecorderConfig, RouteRecorder
from jepa_runtime.routes.route import Route, check_absent, model_of
from jepa_runtime.sources.base import Source, check_commands
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util.output_files import file_paths, write_json


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        UsageError: A value is out of range.
        JepaRuntimeError: An input is invalid, the robot did not move, or the route cannot be written.
    """
    console = message_console(args, "json")
    check_outputs(file_paths(args.json), args.bundle)
    check_absent(args.output)
    try:
        config = RecorderConfig(spacing=args.spacing, max_gap_s=args.max_gap)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with stop_on_signals() as stopping, open_model(args, args.bundle) as model:
        if args.taught is not None:
            route = Route.open(args.taught).encoded_with(model)
        else:
            with closing(open_source(args.source, rate_hz=args.rate)) as source, progress_on(console) as bars:
                route = _record(args, source, model, config, stopping, bars)
        route.save(args.output)
    if args.json is not None:
        write_json(args.json, _properties(route))
    console.print(
        f"{args.output}: {len(route)} key frames in {route.duration_s:.1f} s, "
        f"{'with' if route.poses is not None else 'without'} odometry; energy between neighbors "
        f"{route.near_energy:.3g}, between other places {route.far_energy:.3g}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return ExitStatus.OK


def _record(
    args: argparse.Namespace,
    source: Source,
    model: WorldModel,
    config: RecorderConfig,
    stopping: Event,
    bars: Progress,
) -> Route:
    manifest = model.manifest
    check_commands(source, manifest)
    recorder = RouteRecorder(model_of(model), model.energy, config)
    first_ns: int | None = None
    view: str | None = None
    start_s = args.start or 0.0
    for frame in bars.track(source.frames(), description="frames"):
        first_ns = frame.stamp_ns if first_ns is None else first_ns
        elapsed_s = (frame.stamp_ns - first_ns) / 1e9
        if stopping.is_set() or elapsed_s > start_s + (args.duration or math.inf):
            break
        if elapsed_s < start_s:
            continue
        if view not in (None, frame.frame_id):
            bars.console.print(
                f"{source.name}: the images continue in another place after {recorder.duration_s:.1f} s: the "
                "route ends there",
                style="yellow",
                soft_wrap=True,
                markup=False,
            )
            break
        view = frame.frame_id
        command = source.command if manifest.takes_actions else None
        if command is not None and len(command) != len(manifest.io.action.names):
            command = None
        pose = source.pose
        recorder.add(
            stamp_ns=frame.stamp_ns,
            latent=model.encode(frame.image),
            image=frame.image,
            command=command,
            pose=None if pose is None else pose.pose,
            part=0 if pose is None else pose.part,
        )
    if view is None:
        raise SourceError(
            f"{source.name}: no images to record: check --start", code="source.no_frame_processed"
        )
    route = recorder.finish(source.name)
    ended_s = recorder.odometry_ended_s
    if ended_s is not None and route.poses is None:
        raise RouteError(
            f"{source.name}: the odometry is missing or jumps {ended_s:.1f} s after the start of the route: "
            "choose a part with continuous odometry (--start, --duration), or omit ?odometry=",
            code="route.odometry_incomplete",
        )
    return route


def _properties(route: Route) -> dict[str, object]:
    return {
        "model": f"{route.model.model_id} {route.model.version}",
        "source": route.source,
        "key_frames": len(route),
        "has_odometry": route.poses is not None,
        "duration_s": route.duration_s,
        "near_energy": route.near_energy,
        "far_energy": route.far_energy,
        "lost_energy": route.lost_energy,
    }
