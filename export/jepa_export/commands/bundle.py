"""jepa-export bundle: the bundle of your own encoder and predictor."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from jepa_export.commands import number_types
from jepa_export.commands.options import (
    NOTHING_WRITTEN,
    REQUIRED,
    add_output_argument,
    add_target_argument,
    targets_of,
)


def add_parser(subparsers: Any) -> None:
    """Add ``bundle`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "bundle",
        description="Write the bundle of an encoder and a predictor that a Python function creates. The "
        "networks are checked, calibrated and measured on recordings, and each variant is verified against "
        "them.",
    )
    parser.add_argument(
        "factory",
        metavar="MODULE:FUNCTION",
        help="function that gets the path of the checkpoint (or None) and returns a dictionary of arguments "
        "for jepa_export.export_bundle; it is imported and run, so name only code that you trust",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights, passed to the function")
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="DATA",
        help="recordings with actions: a bag, a folder of them, a LeRobot data set, or two_rooms; for a bag "
        "with the topic and fields of the actions: BAG?action=/cmd_vel:linear.x,angular.z; repeatable",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        help="proportion of the recordings to measure on, each as a whole; the others are calibrated on "
        "(default: %(default)s)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="skip recordings that cannot be used")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="cache of decoded frames (default: a temporary folder)"
    )
    add_output_argument(parser, "folder of the bundle")
    add_target_argument(parser)
    parser.add_argument(
        "--seed", type=number_types.seed, default=0, help="random seed (default: %(default)s)"
    )
    parser.set_defaults(run=_run, needs=REQUIRED, stopped=NOTHING_WRITTEN)


def _run(arguments: argparse.Namespace) -> int:
    import tempfile

    from rich.console import Console

    from jepa_export.bundling.export_bundle import export_bundle
    from jepa_export.bundling.network_factory import create_networks, load_factory, source_file
    from jepa_export.bundling.staging import check_output, source_commit, write_errors_reported
    from jepa_export.bundling.variants import DEFAULT_TARGETS
    from jepa_export.commands.build_student import print_steps
    from jepa_export.data.frame_store import FrameStore
    from jepa_export.data.open_data import open_data

    console = Console()
    progress = print_steps(console)
    check_output(arguments.out)
    factory = load_factory(arguments.factory)
    networks = create_networks(arguments.factory, factory, arguments.checkpoint)
    height, width = networks["frame_size"]
    with write_errors_reported(arguments.out):
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=arguments.out.parent, prefix=f".{arguments.out.name}."
        ) as scratch:
            store = FrameStore(arguments.cache or Path(scratch), height=height, width=width)
            progress("reading recordings")
            data = open_data(arguments.data, store, held_out=arguments.held_out, skip_bad=arguments.skip_bad)
            export_bundle(
                arguments.out,
                **networks,
                calibration=data.train,
                held_out=data.held_out,
                targets=targets_of(arguments) or DEFAULT_TARGETS,
                seed=arguments.seed,
                command=_command(arguments),
                commit=source_commit(source_file(arguments.factory)),
                progress=progress,
            )
    console.print(f"bundle: {arguments.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that makes the same bundle."""
    words = ["jepa-export", "bundle", arguments.factory]
    words += [] if arguments.checkpoint is None else ["--checkpoint", str(arguments.checkpoint)]
    words += [word for data in arguments.data for word in ("--data", data)]
    words += ["--held-out", str(arguments.held_out), "--seed", str(arguments.seed)]
    words += ["--skip-bad"] * arguments.skip_bad
    return shlex.join([*words, *(word for target in targets_of(arguments) for word in ("--target", target))])
