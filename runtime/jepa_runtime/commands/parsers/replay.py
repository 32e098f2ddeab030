"""The options of ``jepa-runtime replay``."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bag_argument,
    add_bundle_argument,
    add_json_argument,
    add_model_arguments,
    mcap_file,
)
from jepa_runtime.replay.names import NONE


def add_parser(subparsers: Any) -> None:
    """Add ``replay`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "replay",
        description="Process every frame of a bag in order, with its commands, goals and candidates, and "
        "write what the nodes would publish to another bag. The same bag, bundle, engine and number of "
        "threads give the same file, byte for byte; durations are 0.",
        epilog="Exit status: 0 done, 1 error, 3 --compare found a difference.",
    )
    add_bag_argument(parser)
    add_bundle_argument(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=mcap_file,
        metavar="FILE",
        help="the MCAP file to write",
    )
    add_topic_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--futures-dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of the latents in the futures; the nodes publish float16 (default: %(default)s)",
    )
    parser.add_argument(
        "--copy-inputs", action="store_true", help="also write images, commands, goals and candidates"
    )
    parser.add_argument(
        "--compare",
        nargs="?",
        const="",
        metavar="OTHER",
        help="compare with the outputs in another bag, or in BAG itself if OTHER is left out",
    )
    add_json_argument(parser, "a summary")
    parser.set_defaults(run=_run)


def add_topic_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the topics of a bag; see :func:`jepa_runtime.commands.replay.topics`."""
    parser.add_argument("--topic", metavar="T", help="topic of the images (default: the only one in the bag)")
    parser.add_argument(
        "--action",
        metavar="T",
        help="topic of the executed commands, and their fields that are the action, such as "
        f"cmd_vel:linear.x,linear.y, or {NONE} (default: cmd_vel and the model's action names)",
    )
    parser.add_argument(
        "--state",
        metavar="T",
        help="topics of the robot's measured state, if the model reads it, and their fields, such as "
        f"'pose;gripper_state:position.finger', or {NONE} (default: robot_state)",
    )
    parser.add_argument(
        "--goal",
        metavar="T",
        help=f"topic of the goal images, or {NONE} (default: goal_image, if there is one)",
    )
    parser.add_argument(
        "--candidates",
        metavar="T",
        help=f"topic of a planner's candidates, or {NONE} (default: the one in the bag, if any)",
    )


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import replay

    return replay.run(args)
