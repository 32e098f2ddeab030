"""``jepa-runtime whatif``: predict the outcome of other actions from a moment in a recording."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepa_runtime.bundle import Bundle
from jepa_runtime.bundle.manifest import ActionSpec
from jepa_runtime.commands.arguments import (
    frame_progress,
    message_console,
    open_model,
)
from jepa_runtime.commands.replay import topics
from jepa_runtime.commands.run_summary import model_facts
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.recording import check_outputs
from jepa_runtime.replay.action_sequences import ActionSequence, sequences
from jepa_runtime.replay.bag_inputs import BagInputs
from jepa_runtime.replay.names import EXECUTED, FAN
from jepa_runtime.replay.player import Player
from jepa_runtime.replay.whatif import WhatIf, branch, executed, find_moment, index_at
from jepa_runtime.reports.whatif_page import render_whatif, rows_of
from jepa_runtime.util.output_files import file_paths, write_each, write_json, write_text

_MAX_ROWS = 12


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: An input is invalid, or the result cannot be computed or written.
    """
    console = message_console(args, "json", "html")
    # Actions may name a file.
    check_outputs(file_paths(args.json, args.html), args.bag, args.bundle, *map(Path, args.actions or ()))
    bundle = Bundle.open(args.bundle)
    with (
        stop_on_signals() as stopping,
        closing(BagInputs(args.bag, bundle.manifest, topics(args))) as inputs,
    ):
        found, model = _branch(args, bundle, inputs, stopping, console)
    name = f"{model['id']} {model['version']}, {model['precision']} on {model['engine']}"
    title = f"What if: {args.bag.name} at {found.moment.time_s:.3f} s"
    # The files are written first: printing to a closed terminal fails.
    try:
        write_each(
            (
                args.json,
                lambda: write_json(args.json, {"bag": str(args.bag), "model": model, **found.as_dict()}),
            ),
            (args.html, lambda: write_text(args.html, render_whatif(found, title=title, subtitle=name))),
        )
    finally:
        _show(console, found, bundle.manifest.io.action)
    return 0


def _branch(
    args: argparse.Namespace, bundle: Bundle, inputs: BagInputs, stopping: Event, console: Console
) -> tuple[WhatIf, dict[str, Any]]:
    manifest = bundle.manifest
    horizon = manifest.horizon if args.horizon is None else args.horizon
    stamps_ns = inputs.stamps_ns()
    moment = find_moment(args.bag, stamps_ns, manifest, at_s=args.at, horizon=horizon, around_s=args.around)
    commands = inputs.commands()
    specs = args.actions or ([FAN] if commands is None else [EXECUTED, FAN])
    chosen: list[ActionSequence] = []
    # The fan gets the candidates that are left.
    for spec in sorted(specs, key=lambda spec: bool(spec == FAN)):
        if spec == EXECUTED:
            chosen.append(ActionSequence(EXECUTED, executed(args.bag, commands, moment, manifest)))
        else:
            room = max(1, (args.num_samples or manifest.num_samples) - len(chosen))
            chosen += sequences(spec, manifest, horizon=horizon, num_samples=room)
    goal = None if args.goal_at is None else inputs.frame(index_at(args.bag, stamps_ns, args.goal_at))
    with (
        frame_progress(console, moment.last - moment.first + 1, stopping) as step,
        Player(lambda: open_model(args, bundle)) as player,
    ):
        found = branch(inputs, player, moment, chosen, goal=goal, on_frame=step)
        return found, model_facts(player.model)


def _show(console: Console, found: WhatIf, action: ActionSpec) -> None:
    energy = (
        "no goal and no energies: --goal-at S uses the image at S seconds as the goal"
        if found.current_energy is None
        else f"energy {found.current_energy:.4g}"
    )
    console.print(f"image {found.moment.index} at {found.moment.time_s:.3f} s: {energy}", markup=False)
    units = ", ".join(f"{name} [{unit}]" for name, unit in zip(action.names, action.units, strict=True))
    console.print(f"actions: {units}", markup=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    # Numbers are never wrapped; labels are.
    table.add_column("", overflow="fold")
    for step in range(len(found.moment.step_images)):
        table.add_column(f"+{(step + 1) * found.step_s:g} s", justify="right", no_wrap=True)
    rows = rows_of(found.branches)
    errors = [(f"{row.label}: error", row.branch.errors) for row in rows if row.branch.errors is not None]
    _add(table, "", [("error bound", found.error_bounds), *errors])
    energies = [(row.label, row.branch.energies) for row in rows if row.branch.energies is not None]
    if energies:
        _add(table, "energy to the goal", energies[:_MAX_ROWS])
    console.print(table)
    if len(energies) > _MAX_ROWS:
        console.print(f"and {len(energies) - _MAX_ROWS} more: --json lists all")


def _add(table: Table, title: str, rows: Sequence[tuple[str, NDArray[np.floating]]]) -> None:
    """Add rows of one quantity, divided by a power of ten if its largest number is too wide."""
    greatest = max(
        (abs(value) for _, values in rows for value in values if math.isfinite(value)), default=0.0
    )
    unit = 1.0 if greatest == 0 or 0.1 <= greatest < 1e4 else 10.0 ** math.floor(math.log10(greatest))
    heading = "\n".join(filter(None, (title, "" if unit == 1.0 else f"x {unit:g}")))
    if heading:
        table.add_row(f"{heading}:")
    for label, values in rows:
        cells = ("-" if math.isnan(value) else f"{value / unit:.3g}" for value in values)
        table.add_row(escape(label), *cells)
