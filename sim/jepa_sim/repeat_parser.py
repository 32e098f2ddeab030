"""The options of ``jepa-runtime repeat``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.commands import (
    add_bundle_argument,
    add_cache_argument,
    add_json_argument,
    add_untrained_argument,
    count,
    positive,
    text_output,
)
from jepa_runtime.util import PRECISIONS
from jepa_sim.drive_parser import planners


def add_parser(subparsers: Any) -> None:
    """Add ``repeat`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "repeat",
        help="repeat a taught route in a simulated world",
        description="Drive the robot of a simulated world along a route that was taught there, with the "
        "controller and the safety checks of the planner node. The robot finds its place on the route by "
        "itself. On a robot, the action ~/repeat_route of the route node does the same. With --to, it drives "
        "to the place of an image instead, over the graph of the key frames of the route, with loop closures "
        "as shortcuts.",
        epilog="Exit status: 0 the end was reached, 3 it was not. Worlds are those of `jepa-runtime drive`.",
    )
    parser.add_argument("route", type=Path, metavar="ROUTE", help="folder of the route")
    add_bundle_argument(parser)
    parser.add_argument("--world", default="two_rooms", metavar="W", help="world (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the world, as taught (default: %(default)s)"
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument(
        "--reverse", action="store_true", help="drive from the end of the route to its start"
    )
    direction.add_argument(
        "--to",
        type=Path,
        metavar="IMAGE",
        help="find the place of this PNG or JPEG on the route, and drive there; needs a route with odometry, "
        "a model that reads poses, and a world with odometry",
    )
    parser.add_argument(
        "--start-at",
        type=positive,
        metavar="S",
        help="place the robot where it was this long after the start of the route, with the taught commands",
    )
    parser.add_argument(
        "--displace",
        type=positive,
        metavar="S",
        help="then drive it in a random direction for this time at half its speed",
    )
    parser.add_argument("--engine", default=DEFAULT_ENGINE, metavar="E", help="engine (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="precision (default: the bundle's first that the engine runs)"
    )
    parser.add_argument(
        "--planner",
        choices=planners(),
        help="planner preset or search (default: two_rooms; with --to: steering)",
    )
    parser.add_argument(
        "--threads", type=count, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )
    add_cache_argument(parser)
    add_untrained_argument(parser)
    add_json_argument(parser, "what happened, image by image,")
    parser.add_argument(
        "--html",
        type=text_output,
        metavar="FILE",
        help="write a page with the route, and where the robot was sure of its place, to FILE (- for "
        "standard "
        "output)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_sim import repeat_command

    return repeat_command.run(args)
