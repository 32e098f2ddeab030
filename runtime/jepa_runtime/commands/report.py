"""``jepa-runtime report``: a run out of its bag, as a page, a picture, or a bag with pictures in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import open_console, progress_on, rate
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.recording import check_outputs
from jepa_runtime.reports.run_figure import draw
from jepa_runtime.reports.run_page import render
from jepa_runtime.util.output_files import file_paths, write, write_each
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.bag_overlay import add_pictures
from jepa_runtime.visualization.run_data import read_run

_RATE_HZ = 5.0


def add_parser(subparsers: Any) -> None:
    """Add ``report`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "report",
        help="show a recorded run: what was seen, foreseen, and what then came",
        description="Read the bag of a run (`jepa-runtime run --mcap`, the monitor node, ros2 bag) and show "
        "what the model saw and foresaw, and what then came: as one HTML page, as a PNG, or as a copy of "
        "the bag with pictures on topics for Foxglove. Predicted latents are shown as the most similar "
        "remembered frame: of the bundle's atlas if it has one, else of the run.",
    )
    parser.add_argument("bag", type=Path, metavar="BAG", help="an .mcap or .db3 file, or a rosbag2 folder")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="whose atlas to look latents up in")
    parser.add_argument("--node", metavar="NAME", help="the world model, where the bag has several")
    parser.add_argument("--image", metavar="TOPIC", help="its camera, where the bag has several")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the moment in which most happened")
    parser.add_argument(
        "--mcap",
        type=Path,
        metavar="FILE",
        help="copy the bag there, with pictures/latent/image, pictures/futures/image, pictures/map/image",
    )
    parser.add_argument(
        "--rate", type=rate, default=_RATE_HZ, metavar="HZ", help="pictures a second in it (%(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: nothing was asked for, the bag or the bundle cannot be read, or a file not written.
    """
    if not (args.html or args.png or args.mcap):
        raise JepaRuntimeError("say what to write: --html FILE, --png FILE or --mcap FILE")
    check_outputs(file_paths(args.html, args.png, args.mcap), args.bag, *file_paths(args.bundle))
    console = open_console()
    with progress_on(console) as progress:
        task = progress.add_task("reading", total=None)
        found = read_run(
            args.bag,
            node=args.node,
            image=args.image,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
        atlas = None if args.bundle is None else atlas_of(args.bundle, found.latents.shape[1:])

        def copy() -> None:
            progress.reset(task, description="copying", total=None)
            add_pictures(args.bag, found, atlas or found.atlas, args.mcap, rate_hz=args.rate)

        write_each(
            (args.html, lambda: write(args.html, render(found, atlas))),
            (args.png, lambda: draw(found, args.png, atlas)),
            (args.mcap, copy),
        )
    whose = "the run" if atlas is None else "the bundle"
    console.print(
        f"{found.name}: {found.frames} frames in {found.duration_s:.1f} s, futures of {len(found.moments)} "
        f"moments, remembered frames of {whose}",
        highlight=False,
        soft_wrap=True,
    )
    for path in filter(None, (args.html, args.png, args.mcap)):
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 0


def atlas_of(folder: Path, latent: tuple[int, ...]) -> Atlas | None:
    """The atlas of the bundle in ``folder``; None if it has none.

    Raises:
        BundleError: the bundle is not valid.
        JepaRuntimeError: its latents are not of the shape ``latent``.
    """
    bundle = Bundle.open(folder)
    spec = bundle.manifest.io.latent
    if (spec.tokens, spec.dim) != tuple(latent):
        raise JepaRuntimeError(
            f"{folder}: its latents are {[spec.tokens, spec.dim]}, those of the bag {list(latent)}: name the "
            "bundle that was served"
        )
    return Atlas.from_bundle(bundle)
