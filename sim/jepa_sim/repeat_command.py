"""``jepa-runtime repeat``: repeat a taught route in a simulated world, or drive to a place on it."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

import numpy as np
from rich.console import Console

from jepa_runtime.backends import BackendOptions
from jepa_runtime.commands import ExitStatus, UsageError, message_console, read_image
from jepa_runtime.control import preset
from jepa_runtime.errors import WorldError
from jepa_runtime.model import WorldModel
from jepa_runtime.recording import check_outputs
from jepa_runtime.reports import render_route
from jepa_runtime.routes import PlaceGraph, Route, RouteOutcome, Trace, model_of
from jepa_runtime.util import file_paths, write_each, write_json, write_text
from jepa_sim.closed_loop.far_goal import FarGoalConfig, drive_to_image
from jepa_sim.closed_loop.repeat import RepeatConfig, displace_robot, place_robot, repeat_route
from jepa_sim.worlds.interface import Image, World
from jepa_sim.worlds.registry import make_world

_STEERING = "steering"


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        UsageError: Options contradict each other.
        JepaRuntimeError: The route cannot be read or was taught with another model, the model cannot act in
            this world, an engine cannot run it, or the image of --to shows no known place.
    """
    console = message_console(args, "json", "html")
    check_outputs(file_paths(args.json, args.html), args.bundle, args.route, *file_paths(args.to))
    goal = None if args.to is None else read_image(args.to)
    if goal is not None and args.planner not in (None, _STEERING):
        raise UsageError(f"--to drives by poses: use --planner {_STEERING} instead of {args.planner}")
    controller = preset(args.planner or ("two_rooms" if goal is None else _STEERING))
    taught = Route.open(args.route)
    with (
        closing(make_world(args.world)) as world,
        WorldModel.open(
            args.bundle,
            engine=args.engine,
            precision=args.precision,
            num_samples=controller.search.num_samples,
            options=BackendOptions(threads=args.threads, cache_dir=args.cache_dir),
            allow_untrained=args.allow_untrained,
        ) as model,
    ):
        taught.check_model(model_of(model), str(args.route))
        mismatch = world.task.mismatch(model.manifest)
        if mismatch is not None:
            raise WorldError(
                f"{args.bundle} cannot drive in {world.task.name}: {mismatch}", code="sim.model_mismatch"
            )
        world.reset(args.seed)
        start_s = taught.duration_s if args.reverse else 0.0
        index = taught.index_at(start_s if args.start_at is None else args.start_at)
        place_robot(world, taught, index)
        displace_robot(world, args.displace or 0.0, seed=args.seed)
        config, found = RepeatConfig(controller=controller), dict[str, Any]()
        if goal is None:
            route = taught.reversed() if args.reverse else taught
            trace = repeat_route(model, world, route, config)
        else:
            route, trace, found = _drive_to(
                model, world, taught, goal, config, name=str(args.to), console=console
            )
    write_each(
        (args.json, lambda: write_json(args.json, trace.as_dict() | found)),
        (args.html, lambda: write_text(args.html, render_route(route, trace, name=args.route.name))),
    )
    result = trace.ended
    for progress, reason in trace.stops:
        console.print(f"stopped at {progress:.0%} of the route: {reason}", markup=False, soft_wrap=True)
    console.print(
        f"{result.outcome}: {result.reason} ({trace.points[-1].time_s:.1f} s, the route takes "
        f"{route.duration_s:.1f} s)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return ExitStatus.OK if result.outcome is RouteOutcome.REACHED else ExitStatus.NEGATIVE


def _drive_to(
    model: WorldModel,
    world: World,
    tour: Route,
    goal: Image,
    config: RepeatConfig,
    *,
    name: str,
    console: Console,
) -> tuple[Route, Trace, dict[str, Any]]:
    """Drive to the place of an image.

    Returns:
        The route of the drive, or the tour if the robot did not find its place; the drive; and properties
        of the graph and of the goal.
    """
    graph = PlaceGraph.build(tour, model)
    robot = drive_to_image(model, world, graph, goal, FarGoalConfig(repeat=config), name=name)
    at = robot.goal_at
    nearest = int(np.hypot(*(graph.poses[:, :2] - at.pose[:2]).T).argmin())
    found = {
        "places": len(tour),
        "loop_closures": len(graph.closures),
        "goal": {
            "pose": at.pose.tolist(),
            "position_std_m": at.position_std_m,
            "confidence": at.confidence,
            "key_frame": nearest,
            "time_s": tour.key_frames[nearest].time_s,
        },
    }
    console.print(
        f"{name}: nearest to key frame {nearest}, {tour.key_frames[nearest].time_s:.1f} s after the start of "
        f"the route, confidence {at.confidence:.2f}; {len(tour)} places, {len(graph.closures)} loop closures",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return robot.route or tour, robot.trace, found
