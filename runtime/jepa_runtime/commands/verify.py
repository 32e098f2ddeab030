"""``jepa-runtime verify``: is this bundle whole, and does it compute here what it computed at its export?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

from rich.markup import escape
from rich.table import Table

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle, Precision
from jepa_runtime.commands.arguments import add_cache_argument, add_json_argument, open_console
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.parity import VariantCheck, check_variants
from jepa_runtime.util.output_files import STDOUT, write_json


def add_parser(subparsers: Any) -> None:
    """Add ``verify`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "verify",
        help="check a bundle: manifest, hashes, formats, and what it computes on this machine",
        description="Check a bundle: manifest, hashes, formats, and whether the graphs of each variant "
        "reproduce the golden outputs on this machine within the bundle's tolerances. A variant for a device "
        "that this machine lacks is reported as not checked; its graphs are opened and run on the CPU. Exit "
        "status 0 if nothing is wrong, else 1 with the reason.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--engine",
        metavar="E",
        help="only what this engine serves (default: each variant, on a device that it is made for)",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="only this one (default: all)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )
    add_cache_argument(parser)
    add_json_argument(parser, "the outcome")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    found: list[VariantCheck] = []
    outcome: dict[str, Any] = {"bundle": str(args.bundle), "engine": args.engine, "ok": False}
    try:
        bundle = Bundle.open(args.bundle)
        manifest = bundle.manifest
        outcome |= {
            "model_id": manifest.model_id,
            "version": manifest.version,
            "sha256": bundle.sha256,
            "trained": manifest.trained,
            "files": len(manifest.files),
        }
        options = BackendOptions(threads=args.threads, cache_dir=args.cache_dir)
        found = check_variants(bundle, engine=args.engine, precision=args.precision, options=options)
        reason = "; ".join(variant.fault for variant in found if variant.fault) or None
    except JepaRuntimeError as error:
        reason = str(error)
    graphs = [
        parity.as_dict() | {"target": variant.target, "engine": variant.engine}
        for variant in found
        for parity in variant.parities
    ]
    variants = [variant.as_dict() for variant in found]
    outcome |= {"ok": reason is None, "reason": reason, "variants": variants, "graphs": graphs}
    if args.json is not None:
        write_json(args.json, outcome)
    if args.json != STDOUT:
        _show(outcome, found)
    if reason is not None:
        print(f"jepa-runtime verify: {reason}", file=sys.stderr)
    return 0 if reason is None else 1


def _show(outcome: dict[str, Any], found: list[VariantCheck]) -> None:
    console = open_console()
    if "files" in outcome:
        name = f"{outcome['model_id']} {outcome['version']}"
        console.print(f"{name}: manifest, hashes and formats of {outcome['files']} files are in order")
        if not outcome["trained"]:
            console.print(f"[yellow]{name}: untrained, its predictions mean nothing[/]")
    if any(variant.parities for variant in found):
        console.print(_table(found))
    for variant in found:
        console.print(_line(variant))
    if outcome["ok"]:
        console.print("[green]ok[/]")


def _line(variant: VariantCheck) -> str:
    style = {"checked": "green", "not checked": "yellow", "failed": "red"}[variant.status]
    groups = "".join(
        f", activations in groups of {parity.dynamic_quantization_group_size} in the {parity.graph}"
        for parity in variant.parities
        if parity.dynamic_quantization_group_size
    )
    name = f"{variant.precision}{groups} for {variant.target}: [{style}]{variant.status}[/]"
    if variant.status == "checked":
        return f"{name} on {variant.engine} ({variant.engine_version})"
    if variant.status == "failed" or variant.engine is None:
        return f"{name}: {escape(variant.fault or variant.unchecked)}"
    return f"{name} on its own device: {escape(variant.unchecked)}; its graphs run on {variant.engine}"


def _table(found: list[VariantCheck]) -> Table:
    table = Table(title="Golden parity", title_justify="left")
    for column in ("target", "precision", "graph"):
        table.add_column(column, no_wrap=True)
    for column in ("worst cosine", "at least", "largest difference", "at most"):
        table.add_column(column, justify="right")
    table.add_column("ok")
    for variant in found:
        for parity in variant.parities:
            table.add_row(
                variant.target,
                parity.precision,
                parity.graph,
                f"{parity.min_cosine:.6f}",
                f"{parity.tolerance.min_cosine:g}",
                f"{parity.max_abs:.4g}",
                f"{parity.tolerance.max_abs:g}",
                "[green]yes[/]" if parity.ok else "[red]no[/]",
            )
    return table
