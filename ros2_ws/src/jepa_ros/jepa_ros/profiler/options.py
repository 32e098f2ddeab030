"""Command-line options of the profiler, and the parameters of the world model that it starts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name

from jepa_ros.world_model.parameters import PARAMETERS
from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.commands import add_bundle_argument, frame_size, positive, rate
from jepa_runtime.util import ArgumentParser

# ROS would accept any other name.
_NODE_PARAMETERS = tuple(parameter.name for parameter in PARAMETERS)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of :mod:`jepa_ros.nodes.profiler`, by default those of the process."""
    description = "Measure the latency of the world model on a running graph from another process."
    parser = ArgumentParser(prog="profiler", description=description)
    add = parser.add_argument
    add_bundle_argument(parser, "start a world model with this bundle", required=False)
    add("--attach", type=_name, metavar="/NODE", help="measure a running world model instead")
    add("--source", required=True, metavar="S", help="two_rooms, a video, a folder of images, or a bag")
    add("--rate", type=rate, default=30.0, metavar="HZ", help="images per second (default: %(default)g)")
    add("--duration", type=positive, default=60.0, metavar="S", help="duration [s] (default: %(default)g)")
    add("--size", type=frame_size, metavar="WxH", help="scale the images to this size")
    add("--topic", type=_name, default="camera/image_raw", help="topic of the images (default: %(default)s)")
    add("--num-samples", type=int, default=0, metavar="K", help="futures per image (default: the bundle's)")
    add("--engine", default=DEFAULT_ENGINE, metavar="E", help="engine and device (default: %(default)s)")
    add("--precision", default="", metavar="P", help="int8, fp16, bf16 or fp32 (default: the bundle's first)")
    add("--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)")
    add("--cache-dir", default="", metavar="DIR", help="cache of compiled models (default: none)")
    add("--deadline-ms", type=positive, metavar="MS", help="deadline per image [ms] (default: one period)")
    add(
        "--param",
        type=_parameter,
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="further parameter of the started world model, for example cpu_affinity:=[1]",
    )
    add("--sweep", type=positive, metavar="S", help="then sweep rising rates up to the knee, S seconds each")
    add("--quiet", action="store_true", help="show progress only")
    add("--allow-untrained", action="store_true", help="accept a bundle with untrained weights")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="output file of the profile (JSON)")
    options = parser.parse_args(arguments)
    if (options.bundle is None) == (options.attach is None):
        parser.error("give BUNDLE to start a world model, or --attach to measure a running one")
    if options.attach and options.param:
        parser.error("--param applies to a started world model; use ros2 param for a running one")
    if options.attach and options.sweep:
        parser.error(
            "--sweep requires a started world model: overloading a running one would affect its other users"
        )
    options.deadline_ms = options.deadline_ms or 1000.0 / options.rate
    return options


def node_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of the world model to start. ``--param`` overrides the other options."""
    return {
        "bundle": str(options.bundle.resolve()),
        "engine": options.engine,
        "precision": options.precision,
        "num_samples": options.num_samples,
        "threads": options.threads,
        "cache_dir": options.cache_dir,
        "allow_untrained": options.allow_untrained,
        "deadline_ms": options.deadline_ms,
        **dict(options.param),
    }


def _name(text: str) -> str:
    try:
        validate_topic_name(text)
    except InvalidTopicNameException as error:
        raise argparse.ArgumentTypeError(
            f"must be a ROS 2 name such as /robot/world_model, got {text}"
        ) from error
    return text


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition(":=")
    try:
        if separator and name in _NODE_PARAMETERS:
            return name, json.loads(value)
    except json.JSONDecodeError:
        pass
    raise argparse.ArgumentTypeError(
        f"must be NAME:=VALUE with a JSON value and NAME one of {', '.join(_NODE_PARAMETERS)}, got {text}"
    )
