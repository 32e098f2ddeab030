"""The options of ``jepa-runtime whatif``."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bag_argument,
    add_bundle_argument,
    add_json_argument,
    add_model_arguments,
    positive,
    text_output,
)
from jepa_runtime.commands.parsers.replay import add_topic_arguments
from jepa_runtime.replay.names import EXECUTED, FAN, FORMS


def add_parser(subparsers: Any) -> None:
    """Add ``whatif`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "whatif",
        description="Play a recording up to a moment, with the executed actions, and predict from there "
        "the outcome of other actions: energies to the goal, error bounds and, for the executed actions, "
        "the error against the frames that followed.",
    )
    add_bag_argument(parser)
    add_bundle_argument(parser)
    parser.add_argument(
        "--at", required=True, type=float, metavar="S", help="the moment, in seconds after the first image"
    )
    parser.add_argument(
        "--actions",
        action="append",
        metavar="SPEC",
        help=f"{FORMS}; repeatable; write --actions=SPEC if it starts with a minus (default: {EXECUTED} and "
        f"{FAN})",
    )
    parser.add_argument("--horizon", type=int, metavar="H", help="steps to predict (default: the model's)")
    parser.add_argument(
        "--goal-at",
        type=float,
        metavar="S",
        help="use the image at this time as the goal (default: the goal in the recording)",
    )
    parser.add_argument(
        "--around",
        type=positive,
        default=30.0,
        metavar="S",
        help="seconds of the recording to process before and after the moment, for the pictures and for "
        "learned error bounds (default: %(default)g)",
    )
    add_topic_arguments(parser)
    add_model_arguments(parser)
    add_json_argument(parser, "the predictions")
    parser.add_argument(
        "--html",
        type=text_output,
        metavar="FILE",
        help="write a page that shows the futures as recorded frames to FILE (- for standard output)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import whatif

    return whatif.run(args)
