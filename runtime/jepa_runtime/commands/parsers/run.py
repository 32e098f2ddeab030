"""The options of ``jepa-runtime run``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import (
    add_bundle_argument,
    add_json_argument,
    add_model_arguments,
    mcap_file,
    positive,
    rate,
    text_output,
)


def add_parser(subparsers: Any) -> None:
    """Add ``run`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "run",
        description="Run a model on a source in real time: latents, predicted futures, energies and "
        "surprise, with the latency of each stage. Frames arrive at a fixed rate, independently of the "
        "model. A frame that arrives while the previous one still waits replaces it, and a drop is counted.",
        usage="%(prog)s (BUNDLE | --robot DIR) --source S [OPTION ...]",
        epilog="Exit status: 0 the source or the duration ended, or a signal stopped the run; 1 error. "
        "Results until then are written in both cases.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--mcap", type=mcap_file, metavar="FILE", help="also record the run, as `jepa-runtime record` does"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`run` reads, except for the recording."""
    model = parser.add_mutually_exclusive_group(required=True)
    add_bundle_argument(model, required=False)
    model.add_argument(
        "--robot",
        type=Path,
        metavar="DIR",
        help="the folder of a robot (`jepa-runtime update provision`): run its active model, which updates "
        "swap while it runs, monitor, and roll back if it fails",
    )
    parser.add_argument(
        "--source",
        required=True,
        metavar="S",
        help="two_rooms[?seed=N&layout=fixed], first_person_tour[?seed=N], a video, a folder of images, "
        "/dev/videoN, "
        "BAG.mcap[?topic=/name&action=/cmd_vel:linear.x,angular.z&state=/pose;/gripper]",
    )
    parser.add_argument(
        "--rate", type=rate, metavar="HZ", help="frames per second (default: as recorded, else 30)"
    )
    parser.add_argument(
        "--duration", type=positive, metavar="S", help="seconds to run (default: until the source ends)"
    )
    parser.add_argument(
        "--goal", metavar="IMAGE", help="PNG or JPEG of the goal (default: the source's, if it has one)"
    )
    add_model_arguments(parser, first="the robot's, else")
    parser.add_argument(
        "--deadline-ms", type=positive, metavar="MS", help="deadline per frame (default: one period)"
    )
    add_json_argument(parser, "the measurements")
    parser.add_argument(
        "--html",
        type=text_output,
        metavar="FILE",
        help="write a latency report to FILE (- for standard output)",
    )
    parser.add_argument(
        "--jpeg",
        action="store_true",
        help="record frames as JPEG: smaller, but lossy, so that a replay gives different outputs",
    )
    parser.add_argument(
        "--black-box",
        type=Path,
        metavar="DIR",
        help="write the seconds around each surprise to bags in DIR",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import run

    return run.run(args)
