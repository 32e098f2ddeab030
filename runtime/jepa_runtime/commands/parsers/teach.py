"""The options of ``jepa-runtime teach``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bundle_argument,
    add_json_argument,
    add_model_arguments,
    positive,
    rate,
)

_SPACING, _MAX_GAP_S = 2.0, 2.0


def add_parser(subparsers: Any) -> None:
    """Add ``teach`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "teach",
        help="record a route that a robot can repeat",
        description="Record a route: key frames along one continuous drive, from a camera, a video, a bag or "
        "a folder of images. A live source is recorded until Ctrl-C. With --from, the images of an existing "
        "route are encoded again, for another model.",
        usage="%(prog)s BUNDLE (--source S | --from ROUTE) --output ROUTE [OPTION ...]",
    )
    add_bundle_argument(parser)
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--source", metavar="S", help="source of the images, as for `jepa-runtime run`")
    origin.add_argument(
        "--from", type=Path, dest="taught", metavar="ROUTE", help="encode the images of this route again"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="ROUTE",
        help="the folder to write; it must not exist",
    )
    parser.add_argument(
        "--rate", type=rate, metavar="HZ", help="rate of a camera, an image folder or a simulated world"
    )
    parser.add_argument("--start", type=positive, metavar="S", help="skip the first seconds of the source")
    parser.add_argument("--duration", type=positive, metavar="S", help="end the route after this time")
    parser.add_argument(
        "--spacing",
        type=positive,
        default=_SPACING,
        metavar="X",
        help="energy between key frames, in multiples of the goal threshold (default: %(default)g)",
    )
    parser.add_argument(
        "--max-gap",
        type=positive,
        default=_MAX_GAP_S,
        metavar="S",
        help="longest time between key frames while the robot moves (default: %(default)g)",
    )
    add_model_arguments(parser)
    add_json_argument(parser, "the properties of the route")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import teach

    return teach.run(args)
