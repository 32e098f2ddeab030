"""jepa-export atlas: frames that a bundle remembers, so that futures can be shown as pictures."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add ``atlas`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "atlas",
        help="give a bundle frames to remember, to show latents as pictures and on a map",
        description="Encode frames of a source and write a copy of the bundle with an atlas: the latents and "
        "small images of those frames that lie furthest apart (farthest-point sampling), and the plane in "
        "which latents move most. Pictures then show a predicted latent as the most similar remembered "
        "frame. The file is optional: runtimes that know nothing of it serve the bundle all the same.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--source", required=True, metavar="S", help="as of `jepa-runtime run`")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the new bundle")
    parser.add_argument(
        "--frames", type=int, default=400, metavar="N", help="frames to remember (%(default)s)"
    )
    parser.add_argument(
        "--read", type=int, default=4000, metavar="N", help="frames to choose from (%(default)s)"
    )
    parser.add_argument("--px", type=int, default=128, help="longer side of their images (%(default)s)")
    parser.add_argument(
        "--max-mb", type=float, default=64.0, metavar="MB", help="refuse a larger one (%(default)s)"
    )
    parser.set_defaults(run=_run, needs=(), stopped="nothing was written")


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.bundling.add_atlas import add_atlas
    from jepa_export.errors import JepaExportError
    from jepa_runtime.bundle import Bundle
    from jepa_runtime.commands.arguments import progress_on

    for name in ("frames", "read", "px", "max_mb"):
        if not 0 < getattr(arguments, name) < math.inf:
            raise JepaExportError(
                f"--{name.replace('_', '-')} must be a positive number, got {getattr(arguments, name)}"
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
            most_bytes=round(1e6 * arguments.max_mb),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print(
        f"{arguments.out}: {made.kept} of {made.read} frames, {made.bytes / 1e6:.2f} MB of at most "
        f"{arguments.max_mb:g} MB\nno frame read is further than {made.radius:.3g} from a remembered "
        f"one, half no further than {made.usual:.3g}\n{made.explained:.0%} of all movement lies in the plane "
        "of the map",
        highlight=False,
        soft_wrap=True,
    )
    return 0
