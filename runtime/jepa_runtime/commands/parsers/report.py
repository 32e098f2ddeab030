"""The options of ``jepa-runtime report``."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bag_argument,
    add_bundle_argument,
    binary_output,
    rate,
    text_output,
)

_RATE_HZ = 5.0


def add_parser(subparsers: Any) -> None:
    """Add ``report`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "report",
        description="Read the bag of a run (`jepa-runtime run --mcap`, the monitor node, ros2 bag) and "
        "show frames, predictions and what was observed later: as one HTML page, as a PNG, or as a copy of "
        "the bag with pictures on topics for Foxglove. A predicted latent is shown as the most similar "
        "known frame: of the bundle's atlas if it has one, else of the run.",
    )
    add_bag_argument(parser)
    add_bundle_argument(parser, "the bundle whose atlas is used", required=False)
    parser.add_argument("--node", metavar="NAME", help="the world model node, if the bag has several")
    parser.add_argument("--image", metavar="TOPIC", help="its camera, if the bag has several")
    parser.add_argument(
        "--html", type=text_output, metavar="FILE", help="write an HTML page to FILE (- for standard output)"
    )
    parser.add_argument(
        "--png", type=binary_output, metavar="FILE", help="draw the most eventful moment of the run to FILE"
    )
    parser.add_argument(
        "--mcap",
        type=binary_output,
        metavar="FILE",
        help="copy the bag to FILE and add the topics pictures/latent/image, pictures/futures/image and "
        "pictures/map/image",
    )
    parser.add_argument(
        "--rate",
        type=rate,
        default=_RATE_HZ,
        metavar="HZ",
        help="pictures per second in the copy (default: %(default)g)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import report

    return report.run(args)
