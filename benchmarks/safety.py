"""How far the robot is commanded after its images go wrong, as the ROS nodes drive it: in virtual time, with
the inference of the world model node and the planner of the planner node (see piloting.py), in the same
episodes for each fault.

A fault begins after --after seconds of driving and lasts 15 s. The path is the integral of the commanded
speed from then on. The node counts the publishers of the images: the row `counted` has that count, the other
rows of two publishers do not. Without a fault: goals reached, and holds, each of them false.

With --nodes the installed nodes drive instead, in real time, with some of the faults.

Exit status 1 if a path is longer than --limit, or fewer than --goal of the goals are reached without a
fault."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from faults import FAULTS, RATE_HZ, Fault, Sent
from numpy.typing import NDArray
from piloting import DEFAULTS, Nodes
from rich.console import Console
from rich.table import Table

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.commands.arguments import count, positive
from jepa_runtime.control.receding_horizon import State
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry.environment import environment
from jepa_runtime.util.output_files import write_json
from jepa_runtime.util.workers import end_with_parent
from jepa_sim.closed_loop.episodes import Episode, episode_seeds
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LASTS_S = 15.0
NODES_FAULTS = (
    *(f"ring of {size}" for size in (1, 2, 4, 8)),
    *(f"one image, noise {noise}" for noise in (1, 3)),
    "overlaid clock",
    "upper half frozen",
    "two publishers in turn",
    "two publishers, 5 ms behind",
    "two publishers, counted",
    "every second image wrong",
)


@dataclass(frozen=True)
class Run:
    """One episode with a fault: commanded path [m], time until a safety check first held the robot [s] (None:
    never), how often one did, and whether the planner took the goal for reached."""

    path_m: float
    held_after_s: float | None
    holds: int
    reached: bool


def drive(nodes: Nodes, world: TwoRooms, seed: int, fault: Fault, after_s: float) -> Run:
    """One episode in which a fault begins after so long."""
    nodes.begin(world, seed)
    nodes.seek(world)
    began = sum(nodes.guard.counts.values())
    path_m, held_s, reached = 0.0, None, False
    for index in range(round((after_s + LASTS_S) * RATE_HZ)):
        image, passed_s = world.render(), index / RATE_HZ - after_s
        if passed_s < 0:
            fault.before(image)
            sent = [Sent(image)]
        else:
            sent = fault.sent(image)
        commands = list(nodes.receive(sent))
        for command, duration_s in commands:
            world.step(command, duration_s)
            path_m += float(np.linalg.norm(command)) * duration_s * (passed_s >= 0)
        if passed_s >= 0:
            reached = reached or nodes.pilot.state is State.REACHED
            if held_s is None and nodes.guard.holds:
                held_s = passed_s
    return Run(path_m, held_s, sum(nodes.guard.counts.values()) - began, reached)


class Receiver(Nodes):
    """Nodes that may receive several images within a period."""

    def receive(self, sent: Sequence[Sent]) -> Iterator[tuple[NDArray[np.float64], float]]:
        """Commands, and how long each holds [s]."""
        begins_ns, period_s = self._now_ns, 1 / RATE_HZ
        for index, each in enumerate(sent):
            self._now_ns = begins_ns + round((period_s + each.later_s) * 1e9)
            command = self.look(each.image, behind_s=each.behind_s, publishers=each.publishers)
            ends_s = sent[index + 1].later_s if index + 1 < len(sent) else period_s
            yield command, max(ends_s - each.later_s, 0.0)
        self._now_ns = begins_ns + round(period_s * 1e9)


@dataclass(frozen=True)
class Row:
    """What came of one fault over all episodes."""

    fault: str
    episodes: int
    longest_path_m: float
    mean_path_m: float
    held: int
    longest_time_to_hold_s: float
    reached: int

    @classmethod
    def of(cls, fault: str, runs: Sequence[Run]) -> Row:
        paths = [run.path_m for run in runs]
        held = [run.held_after_s for run in runs if run.held_after_s is not None]
        return cls(
            fault=fault,
            episodes=len(runs),
            longest_path_m=round(max(paths), 2),
            mean_path_m=round(float(np.mean(paths)), 2),
            held=len(held),
            longest_time_to_hold_s=round(max(held, default=0.0), 2),
            reached=sum(run.reached for run in runs),
        )


def with_fault(bundle: Path, name: str, seeds: Sequence[int], after_s: float) -> Row:
    """One row, in a process of its own."""
    with _model(bundle) as model:
        world = TwoRooms(seed=0)
        runs = [drive(Receiver(model, RATE_HZ), world, seed, FAULTS[name](), after_s) for seed in seeds]
    return Row.of(name, runs)


def without_fault(bundle: Path, seeds: Sequence[int]) -> tuple[list[Episode], Counter[str], int]:
    """The episodes, how often each check held the robot, and in how many episodes one did."""
    driven, held_in = list[Episode](), 0
    with _model(bundle) as model:
        world, nodes = TwoRooms(seed=0), Nodes(model, RATE_HZ)
        for seed in seeds:
            before = nodes.guard.counts.total()
            driven += nodes.drive(world, seed, 1)
            held_in += nodes.guard.counts.total() > before
    return driven, nodes.guard.counts, held_in


def _model(bundle: Path) -> WorldModel:
    opened = Bundle.open(bundle)
    return WorldModel.open(opened, num_samples=opened.manifest.num_samples)


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The report.

    Raises:
        JepaRuntimeError: the bundle cannot be run.
    """
    bundle = Bundle.open(arguments.bundle)
    if arguments.nodes:
        return measure_nodes(arguments, console)
    seeds = episode_seeds(arguments.seed, arguments.episodes)
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), end_with_parent) as pool:
        normal = [
            pool.submit(without_fault, bundle.path, episode_seeds([seed], arguments.normal))
            for seed in arguments.seed
        ]
        rows = []
        for row in pool.map(
            with_fault,
            repeat(bundle.path),
            arguments.faults or FAULTS,
            repeat(seeds),
            repeat(arguments.after),
        ):
            rows.append(row)
            console.print(f"{row.fault}: {row.longest_path_m:.2f} m")
        driven, counts, held_in = [], Counter[str](), 0
        for part in normal:
            episodes, holds, held = part.result()
            driven += episodes
            counts += holds
            held_in += held
    hours = sum(each.steps for each in driven) / RATE_HZ / 3600
    return _report(bundle, rows, arguments.limit) | {
        "without_fault": {
            "goals": asdict(Goals.of(driven)),
            "driven_s": round(hours * 3600, 1),
            "holds": dict(counts),
            "episodes_with_a_hold": held_in,
            "false_holds_per_hour": round(counts.total() / hours, 1),
        }
    }


def measure_nodes(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The report of the installed nodes, one episode with each fault.

    Raises:
        JepaRuntimeError: a node does not run.
    """
    # Only here: without it, virtual time needs no ROS 2.
    from peers.faulty_nodes import drive_nodes

    bundle, rows = Bundle.open(arguments.bundle), list[Row]()
    for name in arguments.faults or NODES_FAULTS:
        path_m, held_after_s, holds = drive_nodes(bundle.path, FAULTS[name](), LASTS_S)
        rows.append(Row.of(name, [Run(path_m, held_after_s, holds, False)]))
        console.print(f"{name}: {path_m:.2f} m")
    return _report(bundle, rows, arguments.limit)


def _report(bundle: Bundle, rows: Sequence[Row], limit_m: float) -> dict[str, Any]:
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {"id": bundle.manifest.model_id, "sha256": bundle.sha256},
        "parameters": {
            name: DEFAULTS[name] for name in ("frozen_after_s", "surprise_window_s", "surprise_ratio")
        },
        "fault_lasts_s": LASTS_S,
        "limit_m": limit_m,
        "faults": [asdict(row) for row in rows],
        "environment": environment().model_dump(),
    }


def judge(report: dict[str, Any], limit_m: float, goal: float) -> list[str]:
    """What falls short."""
    failures = [
        f"{row['fault']}: {row['longest_path_m']:.2f} m, more than {limit_m:g} m"
        for row in report["faults"]
        if row["longest_path_m"] > limit_m
    ]
    normal = report.get("without_fault")
    if normal and (rate := normal["goals"]["rate"]) < goal:
        failures.append(f"without a fault {rate:.1%} of the goals are reached, fewer than {goal:.0%}")
    return failures


def table(report: dict[str, Any]) -> Table:
    """The report for people."""
    shown = Table(title="Commanded path after the fault, within 15 s")
    for heading in (
        "fault",
        "episodes",
        "longest [m]",
        "mean [m]",
        "held",
        "longest time to hold [s]",
        "reached",
    ):
        shown.add_column(heading, justify="left" if heading == "fault" else "right")
    for row in report["faults"]:
        shown.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes; returns the exit status."""
    arguments, console = _parser().parse_args(argv), Console()
    try:
        report = measure(arguments, console)
    except JepaRuntimeError as error:
        print(f"safety: {error}", file=sys.stderr)
        return 2
    console.print(table(report))
    if normal := report.get("without_fault"):
        goals = normal["goals"]
        print(
            f"without a fault: {goals['successes']}/{goals['episodes']} goals reached, "
            f"{normal['false_holds_per_hour']:g} false holds per hour of driving ({normal['holds']} in "
            f"{normal['episodes_with_a_hold']} episodes, {normal['driven_s']:.0f} s)"
        )
    write_json(
        arguments.json or RESULTS / ("safety_nodes.json" if arguments.nodes else "safety.json"), report
    )
    failures = judge(report, arguments.limit, arguments.goal)
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return int(bool(failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2], metavar="S")
    parser.add_argument(
        "--episodes", type=count, default=2, help="with each fault for each seed (default: %(default)s)"
    )
    parser.add_argument(
        "--normal", type=count, default=100, help="without a fault for each seed (default: %(default)s)"
    )
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), metavar="FAULT", help="only these")
    parser.add_argument("--jobs", type=count, default=2, help="processes at a time (default: %(default)s)")
    parser.add_argument("--after", type=positive, default=1.0, help="seconds before the fault (%(default)s)")
    parser.add_argument(
        "--limit", type=positive, default=2.5, help="longest path in m (default: %(default)s)"
    )
    parser.add_argument("--goal", type=float, default=0.95, help="share to be reached (default: %(default)s)")
    parser.add_argument("--nodes", action="store_true", help="drive with the installed nodes, in real time")
    parser.add_argument("--json", type=Path, help="result file (default: results/safety.json)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
