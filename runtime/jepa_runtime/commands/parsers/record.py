"""The options of ``jepa-runtime record``."""

from __future__ import annotations

from typing import Any

from jepa_runtime.commands.arguments import mcap_file
from jepa_runtime.commands.parsers.run import add_arguments


def add_parser(subparsers: Any) -> None:
    """Add ``record`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "record",
        description="Run a model on a source in real time and record frames, commands, goals, latents, "
        "futures and surprise as ROS 2 messages in an MCAP file. Frames are stored without loss, so that "
        "`jepa-runtime replay` computes the same outputs, bit for bit.",
        usage="%(prog)s (BUNDLE | --robot DIR) --source S --output BAG [OPTION ...]",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=mcap_file,
        dest="mcap",
        metavar="BAG",
        help="the MCAP file to write",
    )
    add_arguments(parser)
