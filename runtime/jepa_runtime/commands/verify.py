"""``jepa-runtime verify``: is this bundle whole, and does it compute here what it computed at its export?"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.select import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import add_cache_argument, open_console
from jepa_runtime.errors import BundleError, JepaRuntimeError
from jepa_runtime.sessions import runnable_precisions
from jepa_runtime.verification import Parity, golden_parity


def add_parser(subparsers: Any) -> None:
    """Add ``verify`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "verify",
        help="check a bundle: manifest, hashes, formats, and what it computes on this machine",
        description="Check a bundle: manifest, hashes, formats, and whether each graph reproduces the golden "
        "outputs on this machine within the bundle's tolerances. Exit status 0 if all is well, else 1 with "
        "the reason.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--engine", default="openvino:CPU", metavar="E", help="engine and device (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("int8", "fp16", "fp32"),
        help="only this one (default: each that the engine can run)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )
    add_cache_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    found: list[Parity] = []
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
        found = _parities(bundle, args, outcome)
        reason = "; ".join(parity.fault for parity in found if not parity.ok) or None
    except JepaRuntimeError as error:
        reason = str(error)
    outcome |= {"ok": reason is None, "reason": reason, "graphs": [parity.as_dict() for parity in found]}
    if args.json:
        print(json.dumps(outcome, indent=2, allow_nan=False))
    else:
        _show(outcome, found)
    if reason is not None:
        print(f"jepa-runtime verify: {reason}", file=sys.stderr)
    return 0 if reason is None else 1


def _parities(bundle: Bundle, args: argparse.Namespace, outcome: dict[str, Any]) -> list[Parity]:
    options = BackendOptions(threads=args.threads, cache_dir=args.cache_dir)
    with closing(create_backend(args.engine, options)) as backend:
        outcome["engine_version"] = backend.version
        precisions = runnable_precisions(bundle.manifest, backend.targets)
    if args.precision is not None:
        precisions = [args.precision]
    if not precisions:
        raise BundleError(f"{bundle.path}: has nothing that {args.engine} can run")
    found: list[Parity] = []
    for precision in precisions:
        found += golden_parity(bundle, engine=args.engine, precision=precision, options=options)
    return found


def _show(outcome: dict[str, Any], found: list[Parity]) -> None:
    console = open_console()
    if "files" in outcome:
        name = f"{outcome['model_id']} {outcome['version']}"
        console.print(f"{name}: manifest, hashes and formats of {outcome['files']} files are in order")
        if not outcome["trained"]:
            console.print(f"[yellow]{name}: untrained, its predictions mean nothing[/]")
    if found:
        console.print(_table(outcome, found))
    if outcome["ok"]:
        console.print("[green]ok[/]")


def _table(outcome: dict[str, Any], found: list[Parity]) -> Table:
    title = f"Golden parity on {outcome['engine']} ({outcome['engine_version']})"
    table = Table(title=escape(title), title_justify="left")
    for column in ("precision", "graph"):
        table.add_column(column)
    for column in ("worst cosine", "at least", "largest difference", "at most"):
        table.add_column(column, justify="right")
    table.add_column("ok")
    for parity in found:
        table.add_row(
            parity.precision,
            parity.graph,
            f"{parity.min_cosine:.6f}",
            f"{parity.tolerance.min_cosine:g}",
            f"{parity.max_abs:.4g}",
            f"{parity.tolerance.max_abs:g}",
            "[green]yes[/]" if parity.ok else "[red]no[/]",
        )
    return table
