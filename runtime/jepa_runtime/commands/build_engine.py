"""The command ``jepa-runtime build-engine``: builds engines before a process has to serve them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.registry import engines, find_engine, split_alternatives, split_engine
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import message_console, progress_on
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.parity import golden_parity
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota import config, robot
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.storage.slots import find_slot
from jepa_runtime.util.output_files import STDOUT, write_json


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    console = message_console(args, "json")
    began = time.monotonic()
    _adopt(args)
    declared = find_engine(split_engine(args.engine)[0])
    if declared is None or declared.build_folder is None:
        if args.json is not None:
            nothing = {"bundle": str(args.bundle), "engine": args.engine, "built": [], "ok": True}
            write_json(args.json, nothing)
        console.print(f"{escape(args.engine)} needs no engine build")
        return 0
    bundle = Bundle.open(args.bundle)
    folder = declared.build_folder(args.cache_dir)
    with _counted_attempt(args), _Phases(console) as phases:
        options = BackendOptions(cache_dir=args.cache_dir, build=phases.on_progress)
        with WorldModel.open(
            bundle,
            engine=args.engine,
            precision=args.precision,
            num_samples=args.num_samples,
            options=options,
            allow_untrained=True,
        ) as model:
            precision = model.precision
        # With the bundle's own number of samples, whose engine is also built if it is another one.
        parities = golden_parity(bundle, engine=args.engine, precision=precision, options=options)
    failed = [parity for parity in parities if not parity.ok]
    if args.json is not None:
        outcome = {
            "bundle": str(args.bundle),
            "engine": args.engine,
            "precision": precision,
            "cache_dir": str(folder),
            "built": sorted(phases.graphs),
            "seconds": round(time.monotonic() - began, 1),
            "ok": not failed,
            "graphs": [parity.as_dict() for parity in parities],
        }
        write_json(args.json, outcome)
    if args.json != STDOUT:
        built = (
            f"built engines of {len(phases.graphs)} graphs" if phases.graphs else "all engines were cached"
        )
        console.print(f"{args.engine}, {precision}: {built}, cache: {escape(str(folder))}")
        for parity in parities:
            console.print(f"  {parity.graph}: {parity.figures}{'' if parity.ok else ' [red]FAILED[/]'}")
    for parity in failed:
        print(f"jepa-runtime build-engine: {parity.fault}", file=sys.stderr)
    return 1 if failed else 0


def _adopt(args: argparse.Namespace) -> None:
    """Complete ``args`` from the robot's config.json.

    Raises:
        JepaRuntimeError: Not exactly one of bundle and robot is given, or the robot is not provisioned.
    """
    if (args.bundle is None) == (args.robot is None):
        raise JepaRuntimeError("give either BUNDLE or --robot DIR", code="cli.bundle_or_robot")
    if args.robot is not None:
        settings = config.load(args.robot / robot.CONFIG)
        # The gate builds the engines of a candidate.
        args.bundle = args.robot / ("good" if (args.robot / "good").exists() else "current")
        args.engine, args.precision = args.engine or settings.engine, args.precision or settings.precision
    args.engine = args.engine or next(engine.name for engine in engines() if engine.requires_build)
    if len(split_alternatives(args.engine)) > 1:
        raise JepaRuntimeError(
            f"{args.engine}: names several engines: name the one to build", code="cli.several_engines"
        )


@contextmanager
def _counted_attempt(args: argparse.Namespace) -> Iterator[None]:
    """Count the block as an attempt to open the model of a robot.

    This may be the first process after boot that opens it (see ota/health/trial_counter.py).
    """
    slot = None if args.robot is None else find_slot(args.bundle)
    if slot is None:
        yield
        return
    store, sha256 = slot
    trials = TrialCounter(store)
    with trials.opening(sha256):
        yield
    trials.close()


class _Phases:
    """Shows the phases of a build, several of which are nested; silent without a terminal.

    Attributes:
        graphs: The graphs whose engines were built; some have one engine for all candidates and one for one.
    """

    def __init__(self, console: Console) -> None:
        self._progress = progress_on(console)
        self._tasks: dict[tuple[str, str], TaskID] = {}
        # The builder calls on_progress on its own threads.
        self._lock = Lock()
        self.graphs: set[str] = set()

    def __enter__(self) -> _Phases:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_progress(self, graph: str, phase: str, done: int, steps: int) -> bool:
        """Show a step; see ``build`` of :class:`~jepa_runtime.backends.base.BackendOptions`."""
        with self._lock:
            self.graphs.add(graph)
            key = graph, phase
            if key not in self._tasks:
                self._tasks[key] = self._progress.add_task(escape(f"{Path(graph).parts[-3:][0]}: {phase}"))
            self._progress.update(self._tasks[key], completed=done, total=steps)
            if done >= steps:
                self._progress.remove_task(self._tasks.pop(key))
        return True
