"""``jepa-runtime replay``: recompute the outputs of a recording, and compare them."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import (
    frame_progress,
    message_console,
    open_model,
)
from jepa_runtime.commands.exit_status import ExitStatus
from jepa_runtime.commands.run_summary import model_facts
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording import check_outputs
from jepa_runtime.replay.bag_inputs import BagInputs, Topics
from jepa_runtime.replay.output_comparison import Comparison, Difference, compare
from jepa_runtime.replay.player import Player
from jepa_runtime.replay.replay import Replayed, replay_bag
from jepa_runtime.sources.bag_file import BagFile
from jepa_runtime.util.compat import file_sha256
from jepa_runtime.util.output_files import file_paths, write_json

_MAX_FIELDS = 4


def topics(args: argparse.Namespace) -> Topics:
    """Return the topics that the arguments name."""
    return Topics(
        image=args.topic, action=args.action, goal=args.goal, candidates=args.candidates, state=args.state
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: An input is invalid, or the outputs cannot be computed or written.
    """
    console = message_console(args, "json")
    outs = file_paths(args.output, args.json)
    check_outputs(outs, args.bag, Path(args.compare or args.bag), args.bundle)
    bundle = Bundle.open(args.bundle)
    if args.compare:
        # Fail before the computation if it cannot be read.
        BagFile(Path(args.compare)).close()
    with (
        stop_on_signals() as stopping,
        closing(BagInputs(args.bag, bundle.manifest, topics(args))) as inputs,
        Player(lambda: open_model(args, bundle)) as player,
        frame_progress(console, inputs.count, stopping) as step,
    ):
        model, half = player.model, args.futures_dtype == "float16"
        replayed = replay_bag(
            inputs, player, args.output, half=half, copy_inputs=args.copy_inputs, on_frame=step
        )
    comparison = None
    if args.compare is not None:
        comparison = compare(args.output, Path(args.compare or args.bag))
    if args.json is not None:
        write_json(args.json, _summary(args, model, replayed, comparison))
    _show(console, args.output, replayed)
    if comparison is None:
        return ExitStatus.OK
    _show_comparison(console, comparison)
    return ExitStatus.OK if comparison.same else ExitStatus.NEGATIVE


def _summary(
    args: argparse.Namespace, model: WorldModel, replayed: Replayed, comparison: Comparison | None
) -> dict[str, Any]:
    return {
        "bag": str(args.bag),
        "out": str(args.output),
        "sha256": file_sha256(args.output),
        "frames": replayed.frames,
        "futures": replayed.futures,
        "surprises": replayed.surprises,
        "resets": replayed.resets,
        "rejected": replayed.rejected,
        "last_rejection": replayed.last_rejection,
        "threads": args.threads,
        "model": model_facts(model),
        "comparison": None if comparison is None else _comparison(comparison),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "same": comparison.same,
        "models": {name: list(both) for name, both in comparison.models.items()},
        "topics": {
            topic.topic: {
                "equal": topic.equal,
                "different": topic.different,
                "only_here": topic.only_first,
                "only_there": topic.only_second,
                "first_difference": None
                if topic.difference is None
                else {"stamp_ns": topic.difference.stamp_ns, "fields": topic.difference.fields},
            }
            for topic in comparison.topics
        },
    }


def _show(console: Console, out: Path, replayed: Replayed) -> None:
    resets = [f"{reason} {count}" for reason, count in replayed.resets.items() if reason != "first"]
    broken = f"; history resets: {', '.join(resets)}" if resets else ""
    console.print(
        f"{replayed.frames} frames: {replayed.futures} with futures, {replayed.surprises} with surprise"
        f"{broken}; written to {out}",
        markup=False,
    )
    if replayed.rejected:
        console.print(
            f"{replayed.rejected} inputs rejected, as by the nodes; the last: {replayed.last_rejection}",
            markup=False,
        )


def _show_comparison(console: Console, comparison: Comparison) -> None:
    for name, (here, there) in comparison.models.items():
        console.print(
            f"different model: {name} is {there} in the other bag, {here} here", markup=False, style="yellow"
        )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for column in ("equal", "different", "only here", "only there"):
        table.add_column(column, justify="right")
    for topic in comparison.topics:
        counts = (topic.equal, topic.different, topic.only_first, topic.only_second)
        table.add_row(topic.topic, *map(str, counts))
    console.print(table)
    for topic in comparison.topics:
        if topic.difference is not None:
            console.print(f"{topic.topic}: first difference at {_describe(topic.difference)}", markup=False)
    if comparison.same:
        console.print("[green]equal, bit for bit[/]")
    elif any(topic.different for topic in comparison.topics):
        console.print("[red]different[/]")
    else:
        console.print("[yellow]equal, bit for bit, except for messages that one side lacks[/]")


def _describe(difference: Difference) -> str:
    fields = [
        name if largest is None else f"{name} by {largest:.3g}"
        for name, largest in list(difference.fields.items())[:_MAX_FIELDS]
    ]
    return f"{difference.stamp_ns} ns: {', '.join(fields)}"
