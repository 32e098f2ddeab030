"""``jepa-runtime verify``: check a bundle and its outputs on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from rich.markup import escape
from rich.table import Table

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import open_console
from jepa_runtime.commands.exit_status import ExitStatus, print_error
from jepa_runtime.errors import BundleError, JepaRuntimeError
from jepa_runtime.model.parity import VariantCheck, check_variants
from jepa_runtime.util.output_files import STDOUT, write_json


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    checks: list[VariantCheck] = []
    failure: JepaRuntimeError | None = None
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
        checks = check_variants(bundle, engine=args.engine, precision=args.precision, options=options)
        if errors := [check.error for check in checks if check.error]:
            failure = BundleError("; ".join(map(str, errors)), code=errors[0].code)
    except JepaRuntimeError as error:
        failure = error
    graphs = [
        parity.as_dict() | {"target": variant.target, "engine": variant.engine}
        for variant in checks
        for parity in variant.parities
    ]
    variants = [variant.as_dict() for variant in checks]
    reason = None if failure is None else str(failure)
    code = None if failure is None else failure.code
    outcome |= {"ok": failure is None, "reason": reason, "code": code, "variants": variants, "graphs": graphs}
    if args.json is not None:
        write_json(args.json, outcome)
    if args.json != STDOUT:
        _show(outcome, checks)
    if failure is not None:
        print_error("jepa-runtime", failure)
        return ExitStatus.ERROR
    return ExitStatus.OK


def _show(outcome: dict[str, Any], checks: list[VariantCheck]) -> None:
    console = open_console()
    if "files" in outcome:
        name = f"{outcome['model_id']} {outcome['version']}"
        console.print(f"{name}: manifest, hashes and formats of {outcome['files']} files are valid")
        if not outcome["trained"]:
            console.print(f"[yellow]{name}: untrained, predictions are meaningless[/]")
    if any(variant.parities for variant in checks):
        console.print(_table(checks))
    for variant in checks:
        console.print(_line(variant))
    if outcome["ok"]:
        console.print("[green]ok[/]")


def _line(variant: VariantCheck) -> str:
    style = {"checked": "green", "not checked": "yellow", "failed": "red"}[variant.status]
    groups = "".join(
        f", {parity.graph} activations in groups of {parity.dynamic_quantization_group_size}"
        for parity in variant.parities
        if parity.dynamic_quantization_group_size
    )
    name = f"{variant.precision}{groups} for {variant.target}: [{style}]{variant.status}[/]"
    if variant.status == "checked":
        return f"{name} on {variant.engine} ({variant.engine_version})"
    if variant.status == "failed" or variant.engine is None:
        return f"{name}: {escape(variant.reason)}"
    return f"{name} on its own device: {escape(variant.unchecked)}; its graphs run on {variant.engine}"


def _table(checks: list[VariantCheck]) -> Table:
    table = Table(title="Golden parity", title_justify="left")
    for column in ("target", "precision", "graph"):
        table.add_column(column, no_wrap=True)
    for column in ("worst cosine", "minimum", "largest difference", "maximum"):
        table.add_column(column, justify="right")
    table.add_column("ok")
    for variant in checks:
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
