"""The options of ``jepa-runtime view``."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bundle_argument,
    add_cache_argument,
    add_engine_argument,
    add_untrained_argument,
    binary_output,
    bundle_location,
    positive,
    rate,
)

_RATE_HZ = 10.0


def add_parser(subparsers: Any) -> None:
    """Add ``view`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "view",
        description="Show the frames and predictions of a model in Rerun (pip install 'jepa-edge[rerun]'): "
        "from the bag of a run, or live from a source. With --output, write them to an .rrd file.",
        usage="%(prog)s BAG [BUNDLE] [OPTION ...]\n       %(prog)s BUNDLE --source S [OPTION ...]",
    )
    parser.add_argument(
        "input",
        type=bundle_location,
        metavar="BAG|BUNDLE",
        help="an .mcap or .db3 file, or a rosbag2 folder; with --source: the bundle",
    )
    add_bundle_argument(parser, "the bundle whose atlas is used for a bag", required=False)
    parser.add_argument("--source", metavar="S", help="live: the source, as for `jepa-runtime run`")
    parser.add_argument(
        "--duration", type=positive, metavar="S", help="live: seconds to run (default: until the source ends)"
    )
    add_engine_argument(parser)
    add_cache_argument(parser)
    add_untrained_argument(parser)
    parser.add_argument("--node", metavar="NAME", help="bag: the world model node, if the bag has several")
    parser.add_argument("--image", metavar="TOPIC", help="bag: its camera, if the bag has several")
    parser.add_argument(
        "--rate", type=rate, default=_RATE_HZ, metavar="HZ", help="futures per second (default: %(default)g)"
    )
    parser.add_argument(
        "-o", "--output", type=binary_output, metavar="FILE",
        help="write an .rrd file instead of opening the viewer",
    )  # fmt: skip
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import view

    return view.run(args)
