"""``jepa-runtime info``: show the contents of a bundle."""

from __future__ import annotations

import argparse

from rich.table import Table
from rich.text import Text

from jepa_runtime.bundle import ROLES, Bundle, Manifest, Role
from jepa_runtime.commands.arguments import open_console
from jepa_runtime.util.output_files import STDOUT, write_json

# What replaces a graph that a bundle may lack.
_WITHOUT: dict[Role, str] = {
    "step": "none (predictor)",
    "energy": "none (mean squared difference)",
    "relative_pose": "none (reads no poses)",
}


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        BundleError: The bundle is invalid.
    """
    bundle = Bundle.open(args.bundle)
    if args.json is not None:
        content = {"path": str(bundle.path), "sha256": bundle.sha256, "bytes": _size(bundle.manifest)}
        write_json(args.json, content | {"manifest": bundle.manifest.to_json_dict()})
    if args.json == STDOUT:
        return 0
    title = f"{bundle.manifest.model_id} {bundle.manifest.version}"
    # Without a box and outer padding, a hash fits on one line.
    table = Table(box=None, pad_edge=False, show_header=False, title=title, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(bundle).items():
        # A string from a bundle may contain markup; Text is literal.
        table.add_row(name, Text(value))
    open_console().print(table)
    return 0


def _clip(manifest: Manifest) -> str:
    clip = manifest.io.clip
    if clip is None:
        return "one image"
    text = f"{clip.frames} images, {manifest.io.frame_interval_s:g} s apart, once per step"
    if not clip.cached_steps:
        return text
    return f"{text}: {clip.frames_per_call} are encoded, {clip.cached_steps} steps are cached"


def _facts(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    frame, latent, action = manifest.io.frame, manifest.io.latent, manifest.io.action
    components = zip(action.names, action.low, action.high, action.units, strict=True)
    limits = ", ".join(f"{name} {low:g} to {high:g} {unit}" for name, low, high, unit in components)
    norm = "" if action.max_norm is None else f", norm at most {action.max_norm:g}"
    origin = manifest.provenance
    return {
        "description": manifest.description,
        "release": str(manifest.release_seq),
        "weights": "trained" if manifest.trained else "RANDOM (predictions are meaningless)",
        "license": manifest.licence,
        "data": origin.data,
        "teacher": origin.teacher or "none",
        "created by": f"{origin.command} (commit {origin.commit})",
        "frame": f"{frame.height} x {frame.width} {frame.color} {frame.dtype} at {frame.rate_hz:g} Hz",
        "clip": _clip(manifest),
        "latent": f"{latent.tokens} tokens x {latent.dim} {latent.dtype}",
        "actions": f"{limits}{norm}; step {manifest.io.step_s:g} s",
        "history": f"{manifest.history_size} latent{'s' * (manifest.history_size > 1)}",
        "futures": f"{manifest.num_samples} x {manifest.horizon} steps",
        **{role: _variants(manifest, role) for role in ROLES},
        "error bounds": ", ".join(f"{bound:.3g}" for bound in manifest.error_bounds),
        "thresholds": f"surprise {manifest.surprise_threshold:.4g}, goal {manifest.goal_threshold:.4g}",
        "size": f"{_size(manifest) / 1e6:.2f} MB in {len(manifest.files) + 1} files",
        "SHA-256": bundle.sha256,
        "folder": str(bundle.path),
    }


def _variants(manifest: Manifest, role: Role) -> str:
    variants = manifest.graphs.variants(role)
    return ", ".join(entry.label for entry in variants) or _WITHOUT[role]


def _size(manifest: Manifest) -> int:
    return sum(record.bytes for record in manifest.files)
