"""``jepa-runtime record``: a source, and what a model makes of it, into a bag that can be replayed."""

from __future__ import annotations

from typing import Any

from jepa_runtime.commands import run
from jepa_runtime.commands.arguments import mcap_file


def add_parser(subparsers: Any) -> None:
    """Add ``record`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "record",
        help="record a source, and what a model makes of it, into a bag",
        description="Play a source through a model in real time and record frames, commands, goals, latents, "
        "futures and surprise as ROS 2 messages in an MCAP file. All frames are kept to the pixel, so "
        "that `jepa-runtime replay` computes the same outputs, bit for bit.",
    )
    parser.add_argument("--out", required=True, type=mcap_file, dest="mcap", metavar="BAG", help="the file")
    run.add_arguments(parser)
