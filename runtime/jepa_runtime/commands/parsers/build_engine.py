"""The options of ``jepa-runtime build-engine``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.commands.arguments import add_bundle_argument, add_json_argument


def add_parser(subparsers: Any) -> None:
    """Add ``build-engine`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "build-engine",
        help="build a bundle's engines on this device, once",
        description="Build the engines of a bundle on the device that will run it, cache them, and compare "
        "them with the bundle's golden outputs. Cached engines that match library, driver and GPU are "
        "reused. The serving process never builds engines: run this command after each update of the model, "
        "driver or engine (jepa-build-engine.service does).",
        epilog="Exit status: 0 success, 1 error.",
    )
    add_bundle_argument(parser, required=False)
    parser.add_argument(
        "--robot",
        type=Path,
        metavar="DIR",
        help="use the model installed on a robot, with engine and precision of its config.json",
    )
    parser.add_argument(
        "--engine",
        metavar="E",
        help="engine and device (default: the first engine that is built ahead of time)",
    )
    parser.add_argument(
        "--precision",
        choices=("int8", "fp16", "fp32"),
        help="precision (default: the robot's, or the first of the bundle that the engine can run)",
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        metavar="K",
        help="number of action sequences per frame (default: the bundle's)",
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="engine cache, also used by the serving process (default: /var/cache/jepa-edge, or the "
        "account's own cache)",
    )
    add_json_argument(parser, "the result")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from jepa_runtime.commands import build_engine

    return build_engine.run(args)
