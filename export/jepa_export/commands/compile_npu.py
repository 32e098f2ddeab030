"""jepa-export compile-npu: compile the NPU variants of a bundle ahead of time."""

from __future__ import annotations

import argparse
from typing import Any

from jepa_export.commands.add_variant import print_sizes
from jepa_export.commands.options import NOTHING_WRITTEN, REQUIRED, add_output_argument
from jepa_runtime.commands import add_bundle_argument


def add_parser(subparsers: Any) -> None:
    """Add ``compile-npu`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "compile-npu",
        description="Write a copy of a bundle with blobs for NPU 3720, 4000 and 5010 of each of its NPU "
        "variants, compiled by Intel's compiler of the installed OpenVINO release. A robot imports a blob of "
        "its own OpenVINO release, and compiles the graph itself otherwise.",
    )
    add_bundle_argument(parser, "bundle, which is not changed: its folder")
    add_output_argument(parser, "folder of the new bundle, outside BUNDLE; must not exist")
    parser.set_defaults(run=_run, needs=REQUIRED, stopped=NOTHING_WRITTEN)


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.bundling.add_variants import add_blobs
    from jepa_export.commands.build_student import print_steps
    from jepa_runtime.bundle import Bundle

    base = Bundle.open(arguments.bundle)
    print_sizes(base, add_blobs(base, arguments.out, progress=print_steps(Console())))
    return 0
