"""``jepa-runtime report``: show a recorded run as a page, a picture, or a bag with pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import (
    message_console,
    progress_on,
)
from jepa_runtime.commands.exit_status import UsageError
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.recording import check_outputs
from jepa_runtime.reports.run_figure import draw_run
from jepa_runtime.reports.run_page import render_run
from jepa_runtime.util.output_files import file_paths, write_each, write_text
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.bag_overlay import add_pictures
from jepa_runtime.visualization.run_data import read_run


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        UsageError: No output was requested.
        JepaRuntimeError: The bag or the bundle cannot be read, or a file cannot be written.
    """
    if not (args.html or args.png or args.mcap):
        raise UsageError("at least one of --html, --png and --mcap is required")
    check_outputs(file_paths(args.html, args.png, args.mcap), args.bag, *file_paths(args.bundle))
    console = message_console(args, "html")
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
            (args.html, lambda: write_text(args.html, render_run(found, atlas))),
            (args.png, lambda: draw_run(found, args.png, atlas)),
            (args.mcap, copy),
        )
    origin = "run" if atlas is None else "bundle"
    console.print(
        f"{found.name}: {found.frames} frames in {found.duration_s:.1f} s, predictions at "
        f"{len(found.moments)} moments, atlas of the {origin}",
        highlight=False,
        soft_wrap=True,
    )
    for path in file_paths(args.html, args.png, args.mcap):
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    return 0


def atlas_of(folder: Path, latent: tuple[int, ...]) -> Atlas | None:
    """Return the atlas of the bundle in ``folder``, or None if it has none.

    Raises:
        BundleError: The bundle is invalid.
        JepaRuntimeError: Its latents do not have the shape ``latent``.
    """
    bundle = Bundle.open(folder)
    spec = bundle.manifest.io.latent
    if (spec.tokens, spec.dim) != tuple(latent):
        raise JepaRuntimeError(
            f"{folder}: its latents have shape {[spec.tokens, spec.dim]}, those of the bag {list(latent)}: "
            "use the bundle that the run used",
            code="report.latent_mismatch",
        )
    return Atlas.from_bundle(bundle)
