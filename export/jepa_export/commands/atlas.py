"""jepa-export atlas: reference frames in a bundle, so that predictions can be shown as images."""

from __future__ import annotations

import argparse
import math
from typing import Any

from jepa_export.commands.options import NOTHING_WRITTEN, add_output_argument
from jepa_runtime.commands import add_bundle_argument


def add_parser(subparsers: Any) -> None:
    """Add ``atlas`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "atlas",
        description="Encode frames of a source and write a copy of the bundle with an atlas: latents and "
        "thumbnails of frames chosen by farthest-point sampling, and the plane in which latents vary most. "
        "Visualizations then show a predicted latent as the most similar frame of the atlas. The file is "
        "optional: runtimes that do not support it ignore it.",
    )
    add_bundle_argument(parser)
    parser.add_argument(
        "--source", required=True, metavar="S", help="source of frames, as for `jepa-runtime run`"
    )
    add_output_argument(parser, "folder of the new bundle")
    parser.add_argument(
        "--frames", type=int, default=400, metavar="N", help="frames in the atlas (default: %(default)s)"
    )
    parser.add_argument(
        "--read", type=int, default=4000, metavar="N", help="frames to choose from (default: %(default)s)"
    )
    parser.add_argument(
        "--px", type=int, default=128, help="longer side of the thumbnails in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--max-mb",
        type=float,
        default=64.0,
        metavar="MB",
        help="size limit of the atlas (default: %(default)s)",
    )
    parser.set_defaults(run=_run, needs=(), stopped=NOTHING_WRITTEN)


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.bundling.add_atlas import add_atlas
    from jepa_export.errors import JepaExportError
    from jepa_runtime.bundle import Bundle
    from jepa_runtime.commands import progress_on

    for name in ("frames", "read", "px", "max_mb"):
        if not 0 < getattr(arguments, name) < math.inf:
            raise JepaExportError(
                f"--{name.replace('_', '-')} must be a positive number, got {getattr(arguments, name)}",
                code="export.invalid_option",
            )
    console = Console()
    with progress_on(console) as progress:
        task = progress.add_task("encoding", total=None)
        made = add_atlas(
            Bundle.open(arguments.bundle),
            arguments.source,
            arguments.out,
            frames=arguments.frames,
            read=arguments.read,
            px=arguments.px,
            max_bytes=round(1e6 * arguments.max_mb),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print(
        f"{arguments.out}: {made.num_frames} of {made.num_read} frames, {made.bytes / 1e6:.2f} MB of at most "
        f"{arguments.max_mb:g} MB\ndistance of the frames to the nearest frame of the atlas: at most "
        f"{made.max_distance:.3g}, median {made.median_distance:.3g}\nthe map explains "
        f"{made.explained_variance:.0%} of the variance",
        highlight=False,
        soft_wrap=True,
    )
    return 0
