"""The options of ``jepa-runtime profile``."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_runtime.commands.arguments import (
    add_cache_argument,
    add_engine_argument,
    add_json_argument,
    add_num_samples_argument,
    add_precision_argument,
    add_threads_argument,
    add_untrained_argument,
    binary_output,
    bundle_location,
    frame_size,
    positive,
    rate,
    text_output,
)

# What is measured in addition to the main pass.
PASSES = ("parity", "closed", "sweep", "cold", "idle", "layers")


def add_parser(subparsers: Any) -> None:
    """Add ``profile`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "profile",
        description="Measure latency on this machine. The main pass is open loop: frames are scheduled at "
        "a fixed rate, independently of the model, and latency counts from the scheduled time. Further "
        "passes: parity with the golden outputs, closed loop (the highest rate), a sweep of rates up to "
        "the knee, cold starts, the first frame after an idle gap, and the time of each layer. Of several "
        "bundles, or of a folder with bundles, only the main pass is measured, with a goal and in turns, and "
        "the largest bundle whose p99 is within the deadline is recommended.",
        epilog="Exit status: 0 measured, 1 error. If the world model node died or stopped publishing, the "
        "measurements until then are written. With several bundles: 3 none keeps the deadline, 4 too few "
        "frames to decide.",
    )
    parser.add_argument(
        "bundle",
        type=bundle_location,
        nargs="*",
        metavar="BUNDLE",
        help="folder of the bundle, or hf://org/name[@revision] (not with --attach); several, or a folder "
        "with bundles, are the sizes to recommend one of",
    )
    parser.add_argument(
        "--source",
        default="two_rooms",
        metavar="S",
        help="the source, as for `jepa-runtime run`; frames are preloaded (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=frame_size, metavar="WxH", help="scale frames (default: as in the source)"
    )
    parser.add_argument(
        "--rate",
        type=rate,
        metavar="HZ",
        help="frames per second (default: 30; with a model that reads clips one for each step, which a frame "
        "of the schedule then completes)",
    )
    parser.add_argument(
        "--duration",
        type=positive,
        default=60.0,
        metavar="S",
        help="seconds of the main pass, for each bundle (default: %(default)g)",
    )
    parser.add_argument(
        "--deadline-ms", type=positive, metavar="MS", help="deadline per frame (default: one period)"
    )
    add_num_samples_argument(parser)
    add_engine_argument(parser)
    add_precision_argument(parser)
    add_threads_argument(parser)
    add_cache_argument(parser)
    parser.add_argument(
        "--skip",
        type=_passes,
        default=(),
        metavar="PASS,…",
        help=f"passes to skip: {', '.join(PASSES)}, or all",
    )
    add_json_argument(parser, "the profile, for `jepa-runtime compare`, or the recommendation")
    parser.add_argument(
        "--html", type=text_output, metavar="FILE", help="write a report to FILE (- for standard output)"
    )
    parser.add_argument("--trace", type=binary_output, metavar="FILE", help="write a Perfetto trace to FILE")
    add_untrained_argument(parser)
    ros = parser.add_argument_group(
        "ROS 2", "measure the main pass and the sweep on a ROS 2 graph, from another process"
    )
    ros.add_argument("--ros", action="store_true", help="start a world_model node and publish frames to it")
    ros.add_argument(
        "--attach", metavar="NODE",
        help="publish frames to this running node, with its engine, precision, threads and futures",
    )  # fmt: skip
    ros.add_argument(
        "--ros-param", action="append", default=[], metavar="NAME:=VALUE",
        help="parameter of the node that --ros starts, such as cpu_affinity:=[1]; repeatable",
    )  # fmt: skip
    ros.add_argument("--topic", metavar="T", help="topic of the images (default: camera/image_raw)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import profile

    return profile.run(args)


def _passes(text: str) -> tuple[str, ...]:
    chosen = PASSES if text == "all" else tuple(text.split(","))
    unknown = [name for name in chosen if name not in PASSES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown pass {', '.join(unknown)}; the passes are {', '.join(PASSES)}"
        )
    return chosen
