"""How far the robot is commanded after its images become wrong, in simulated time.

The world model and the controller are those of the ROS nodes; every fault has the same episodes. A fault
begins after --after seconds of driving and lasts 15 s. The path is the integral of the commanded speed from
then on. The node counts the publishers of the images: the row `counted` has that count, the other rows with
two publishers do not. Without a fault: goals reached, and holds, all of which are false.

With --nodes the installed nodes drive instead, in real time, with some of the faults.

With --goal-poses a client publishes where the goal is, such as the route node, and becomes wrong instead of
the images. The robot steers to these poses in first-person rooms, to goals at most 1.5 m away; turns do not
count as path.

Exit status 1 if a path is longer than --limit, or fewer than --goal of the goals are reached without a fault.
"""

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
from continuous_driving import drive_goals
from faults import FAULTS, RATE_HZ, Fault, Sent
from goal_pose_faults import CLIENT_FAULTS, LEVEL, drive_with_client, near_goals
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.commands import count, positive
from jepa_runtime.control import ControllerConfig, State
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import end_with_parent, write_json
from jepa_sim.closed_loop.episodes import Episode, episode_seeds
from jepa_sim.closed_loop.robot import SimulatedRobot
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LASTS_S = 15.0
NO_FAULT = "none"
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
    """One episode with a fault.

    Attributes:
        path_m: Commanded path.
        held_after_s: Time until the robot was first held; None: never.
        holds: Number of holds.
        reached: Whether the planner considered the goal reached.
    """

    path_m: float
    held_after_s: float | None
    holds: int
    reached: bool


def drive(robot: Receiver, world: TwoRooms, seed: int, fault: Fault, after_s: float) -> Run:
    """Run one episode in which a fault begins after ``after_s``."""
    robot.begin_episode(world, seed)
    robot.set_goal(world.render_goal())
    began = sum(robot.stops.values())
    path_m, held_s, reached = 0.0, None, False
    for index in range(round((after_s + LASTS_S) * RATE_HZ)):
        image, passed_s = world.render(), index / RATE_HZ - after_s
        if passed_s < 0:
            fault.before(image)
            sent = [Sent(image)]
        else:
            sent = fault.sent(image)
        commands = list(robot.receive(sent))
        for command, duration_s in commands:
            world.step(command, duration_s)
            path_m += float(np.linalg.norm(command)) * duration_s * (passed_s >= 0)
        if passed_s >= 0:
            reached = reached or robot.state is State.REACHED
            if held_s is None and robot.controller.safety_monitor.holds:
                held_s = passed_s
    return Run(path_m, held_s, sum(robot.stops.values()) - began, reached)


class Receiver(SimulatedRobot):
    """A robot that may receive several images within a period."""

    def receive(self, sent: Sequence[Sent]) -> Iterator[tuple[NDArray[np.float64], float]]:
        """Return the commands, and the duration of each [s]."""
        begins_ns, period_s = self._now_ns, 1 / RATE_HZ
        for index, each in enumerate(sent):
            self._now_ns = begins_ns + round((period_s + each.later_s) * 1e9)
            command = self.decide(each.image, delay_s=each.behind_s, image_publishers=each.publishers)
            self.finish_image()
            ends_s = sent[index + 1].later_s if index + 1 < len(sent) else period_s
            yield command, max(ends_s - each.later_s, 0.0)
        self._now_ns = begins_ns + round(period_s * 1e9)


@dataclass(frozen=True)
class Row:
    """Results of one fault over all episodes."""

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
    """Return the row of one fault; runs in its own process."""
    with _model(bundle) as model:
        world = TwoRooms(seed=0)
        robots = (Receiver(model, period_s=1 / RATE_HZ) for _ in seeds)
        runs = [
            drive(robot, world, seed, FAULTS[name](), after_s)
            for robot, seed in zip(robots, seeds, strict=True)
        ]
    return Row.of(name, runs)


def without_fault(bundle: Path, seeds: Sequence[int]) -> tuple[list[Episode], Counter[str], int]:
    """Return the episodes, the number of holds by cause, and the number of episodes with a hold."""
    driven, held_in = list[Episode](), 0
    with _model(bundle) as model:
        world, robot = TwoRooms(seed=0), SimulatedRobot(model, period_s=1 / RATE_HZ)
        for seed in seeds:
            before = robot.stops.total()
            driven += drive_goals(robot, world, seed, 1, RATE_HZ)
            held_in += robot.stops.total() > before
    return driven, robot.stops, held_in


def _model(bundle: Path) -> WorldModel:
    opened = Bundle.open(bundle)
    return WorldModel.open(opened, num_samples=opened.manifest.num_samples)


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: The bundle cannot be run.
    """
    bundle = Bundle.open(arguments.bundle)
    if arguments.nodes:
        return measure_nodes(arguments, console)
    if arguments.goal_poses:
        return measure_goal_poses(arguments, console)
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
    hours = bundle.manifest.io.step_s * sum(each.steps for each in driven) / 3600
    return _report(bundle, rows, arguments.limit) | {
        "without_fault": {
            "goals": asdict(Goals.of(driven)),
            "driven_s": round(hours * 3600, 1),
            "holds": dict(counts),
            "episodes_with_a_hold": held_in,
            "false_holds_per_hour": round(counts.total() / hours, 1),
        }
    }


def with_client_fault(bundle: Path, name: str, seeds: Sequence[int], episodes: int, after_s: float) -> Row:
    """Return the row of one fault of goal poses; runs in its own process."""
    # Imported here: first-person rooms need an extra.
    from jepa_sim.worlds.first_person.world import FirstPersonRooms

    world, create = FirstPersonRooms(LEVEL), CLIENT_FAULTS.get(name)
    with WorldModel.open(Bundle.open(bundle), options=BackendOptions(threads=1)) as model:
        drives = [
            drive_with_client(
                model, world, each, None if create is None else create(), after_s=after_s, lasts_s=LASTS_S
            )
            for seed in seeds
            for each in near_goals(world, seed, episodes)
        ]
    return Row.of(name, [Run(each.path_m, each.stopped_after_s, each.stops, each.reached) for each in drives])


def measure_goal_poses(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Return the report of the faults of goal poses.

    Raises:
        JepaRuntimeError: The bundle cannot be run.
    """
    bundle, rows = Bundle.open(arguments.bundle), list[Row]()
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), end_with_parent) as pool:
        for row in pool.map(
            with_client_fault,
            repeat(bundle.path),
            arguments.faults or (NO_FAULT, *CLIENT_FAULTS),
            repeat(arguments.seed),
            repeat(arguments.episodes),
            repeat(arguments.after),
        ):
            rows.append(row)
            console.print(f"{row.fault}: {row.longest_path_m:.2f} m")
    return _report(bundle, rows, arguments.limit)


def measure_nodes(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Return the report of the installed nodes, one episode with each fault.

    Raises:
        JepaRuntimeError: A node does not run.
    """
    # Imported here, so that simulated time needs no ROS 2.
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
            name: getattr(ControllerConfig(), name)
            for name in ("frozen_after_s", "surprise_window_s", "surprise_ratio")
        },
        "fault_lasts_s": LASTS_S,
        "limit_m": limit_m,
        "faults": [asdict(row) for row in rows],
        "environment": read_environment().model_dump(),
    }


def check_limits(report: dict[str, Any], limit_m: float, goal: float) -> list[str]:
    """Return the limits that are missed."""
    failures = [
        f"{row['fault']}: path of {row['longest_path_m']:.2f} m, limit {limit_m:g} m"
        for row in report["faults"]
        if row["longest_path_m"] > limit_m
    ]
    normal = report.get("without_fault")
    if normal and (rate := normal["goals"]["rate"]) < goal:
        failures.append(f"without a fault {rate:.1%} of the goals are reached, required {goal:.0%}")
    return failures


def table(report: dict[str, Any]) -> Table:
    """Return the report as a table."""
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
    """Run the episodes and return the exit status."""
    parser, console = _parser(), Console()
    arguments = parser.parse_args(argv)
    known = (NO_FAULT, *CLIENT_FAULTS) if arguments.goal_poses else tuple(FAULTS)
    if unknown := set(arguments.faults or ()) - set(known):
        parser.error(f"no fault is named {', '.join(sorted(unknown))}: choose from {'; '.join(known)}")
    world, report_name = "two_rooms", "safety"
    if arguments.nodes:
        report_name = "safety_nodes"
    elif arguments.goal_poses:
        world, report_name = "first_person", "safety_goal_poses"
    arguments.bundle = arguments.bundle or ROOT / "models" / world
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
    write_json(arguments.json or RESULTS / f"{report_name}.json", report)
    failures = check_limits(report, arguments.limit, arguments.goal)
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return int(bool(failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="bundle (default: two_rooms or first_person in models/)")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2], metavar="S")
    parser.add_argument(
        "--episodes",
        type=count,
        default=2,
        help="episodes with each fault, for each seed (default: %(default)s)",
    )
    parser.add_argument(
        "--normal",
        type=count,
        default=100,
        help="episodes without a fault, for each seed (default: %(default)s)",
    )
    parser.add_argument("--faults", nargs="+", metavar="FAULT", help="faults (default: all)")
    parser.add_argument("--jobs", type=count, default=2, help="parallel processes (default: %(default)s)")
    parser.add_argument(
        "--after", type=positive, default=1.0, help="seconds before the fault (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=positive, default=2.5, help="longest allowed path in m (default: %(default)s)"
    )
    parser.add_argument(
        "--goal", type=float, default=0.95, help="required success rate (default: %(default)s)"
    )
    robots = parser.add_mutually_exclusive_group()
    robots.add_argument("--nodes", action="store_true", help="drive with the installed nodes, in real time")
    robots.add_argument(
        "--goal-poses", action="store_true", help="faults of a client that publishes the pose of the goal"
    )
    parser.add_argument("--json", type=Path, help="result file (default: in results/, by these options)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
