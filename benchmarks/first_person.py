"""Goals reached in first-person rooms, by level and driver, in held-out layouts.

Every driver of a level has the same episodes. The floors know more than a robot does, and their names say so:
random commands, a straight line that is blind to obstacles, and the shortest path; `odometry only` follows
the odometry of a route without looking; `behavior cloning` is a policy that was trained to imitate, from
images, a driver who knows the shortest path. With --driver only these drive, and the report retains the rows
of the others. Also the speed of the renderer, in frames per second of processor time.

With --world mujoco, the same levels in houses that MuJoCo simulates and draws.

With --bundle, the code that drives the robot has these episodes, with a model, in each of its precisions and
without the floors: world model, controller with steering, for routes the recorder, the localizer and the
follower, and for far goals the graph of places. An interrupted run continues from its report.

Exit status 1 if the shortest path by true pose reaches less than --goal of the goals of a level: then the
level cannot be solved. With --bundle, if a level or INT8 compared with fp32 is below its goal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import first_person_robot
import numpy as np
from peers.files import result_file
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from jepa_runtime.bundle import Precision
from jepa_runtime.commands import count
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import wilson, write_json

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.95
POLICY = ROOT / "benchmarks" / "first_person_policy"
FLOORS = (
    "random, stops by true pose", "straight by true pose", "odometry only", "behavior cloning",
    "shortest path by true pose",
)  # fmt: skip
LEVEL_NAMES = ("L0", "L1", "L2", "L2-tour", "L2-survey", "L3", "L3-survey", "TR", "TR-back")
SIZES = ((72, 96), (288, 384))
_MEASURED_S = 1.0


@dataclass(frozen=True)
class Row:
    """Results of one driver at one level."""

    level: str
    driver: str
    episodes: int
    reached: int
    rate: float
    interval: tuple[float, float]
    stopped: int
    mean_time_s: float
    median_distance_m: float
    contacts_per_episode: float
    episodes_with_contact: int

    @classmethod
    def of(cls, level: str, driver: str, drives: Sequence[Any]) -> Row:
        """Return the statistics of drives of :mod:`jepa_sim.closed_loop.first_person.protocol`."""
        episodes, reached = len(drives), sum(drive.reached for drive in drives)
        return cls(
            level=level,
            driver=driver,
            episodes=episodes,
            reached=reached,
            rate=reached / episodes,
            interval=wilson(reached, episodes),
            stopped=sum(drive.stopped for drive in drives),
            mean_time_s=round(float(np.mean([drive.time_s for drive in drives])), 2),
            median_distance_m=round(float(np.median([drive.distance_m for drive in drives])), 3),
            contacts_per_episode=round(float(np.mean([drive.contacts for drive in drives])), 2),
            episodes_with_contact=sum(drive.contacts > 0 for drive in drives),
        )


def measure_levels(simulator: Any, arguments: argparse.Namespace, console: Console) -> list[Row]:
    """Drive all episodes of some levels.

    Raises:
        JepaRuntimeError: The policy of behavior cloning cannot be loaded.
    """
    from jepa_sim.closed_loop.first_person.cloned_policy import ClonedPolicy
    from jepa_sim.closed_loop.first_person.floors import floors
    from jepa_sim.closed_loop.first_person.protocol import drive, mission_of
    from jepa_sim.worlds.first_person.levels import LEVELS

    rows = []
    first, episodes = arguments.seed * 1_000_000, arguments.episodes
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        closing(ClonedPolicy(arguments.policy)) as policy,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        for level in (LEVELS[name] for name in arguments.level):
            task = progress.add_task(level.name, total=episodes)
            drivers = {
                name: driver
                for name, driver in floors(level, policy).items()
                if arguments.driver is None or name in arguments.driver
            }
            drives: dict[str, list[Any]] = {name: [] for name in drivers}
            for number in range(first, first + episodes):
                mission = mission_of(level, number, simulator)
                for name, driver in drivers.items():
                    drives[name].append(drive(level, mission, driver, seed=number))
                progress.advance(task)
            rows += [Row.of(level.name, name, found) for name, found in drives.items()]
    return rows


def measure_speed() -> dict[str, float]:
    """Return frames per second of processor time by image size, and layouts per second."""
    from jepa_sim.worlds.first_person.layouts import pack, sample_layout
    from jepa_sim.worlds.first_person.recordings import free_pose
    from jepa_sim.worlds.first_person.rendering import render

    rng = np.random.default_rng(0)
    began = time.process_time()
    layouts = [sample_layout(rng, held_out=False) for _ in range(50)]
    packed = pack(layouts)
    found = {"layouts": round(50 / (time.process_time() - began), 1)}
    which = np.arange(len(layouts))
    poses = np.stack([free_pose(pack([layout]), layout, rng) for layout in layouts])
    for size in SIZES:
        render(packed, poses, which, size=size)
        frames, began = 0, time.process_time()
        while time.process_time() - began < _MEASURED_S:
            render(packed, poses, which, size=size)
            frames += len(poses)
        found[f"{size[1]}x{size[0]}"] = round(frames / (time.process_time() - began), 1)
    return found


def measure_speed_of_mujoco() -> dict[str, float]:
    """Return frames by image size, physics steps and compiled houses per second of processor time."""
    from jepa_sim.worlds.first_person.layouts import pack, sample_layout
    from jepa_sim.worlds.first_person.recordings import free_pose
    from jepa_sim.worlds.first_person_mujoco.house import compile_house
    from jepa_sim.worlds.first_person_mujoco.scene import HouseRenderer, MuJoCoScene

    rng = np.random.default_rng(0)
    layouts = [sample_layout(rng, held_out=False) for _ in range(8)]
    began = time.process_time()
    models = [compile_house.__wrapped__(layout) for layout in layouts]
    found = {"houses": round(len(models) / (time.process_time() - began), 1)}
    layout, model, packed = layouts[-1], models[-1], pack(layouts[-1:])
    poses = [free_pose(packed, layout, rng) for _ in range(20)]
    for size in SIZES:
        renderer = HouseRenderer(model, size)
        renderer.draw_from(poses[0])
        frames, began = 0, time.process_time()
        while time.process_time() - began < _MEASURED_S:
            for pose in poses:
                renderer.draw_from(pose)
            frames += len(poses)
        found[f"{size[1]}x{size[0]}"] = round(frames / (time.process_time() - began), 1)
        renderer.close()
    robot = MuJoCoScene(layout, packed, rng).robot(poses[0])
    ticks, began = 0, time.process_time()
    while time.process_time() - began < _MEASURED_S:
        robot.drive(rng.uniform((-0.2, -1.5), (0.8, 1.5)), 12)
        ticks += 12
    found["ticks"] = round(ticks / (time.process_time() - began), 1)
    return found


def _ray_caster() -> Any:
    from jepa_sim.worlds.first_person.scene import RayCastScene

    return RayCastScene


def _mujoco() -> Any:
    from jepa_sim.worlds.first_person_mujoco.scene import MuJoCoScene

    return MuJoCoScene


@dataclass(frozen=True)
class World:
    """A world that has the levels.

    Attributes:
        simulator: Returns its simulator.
        measure_speed: Returns how much it does per second of processor time.
        packages: What it needs.
        report: Name of the report.
    """

    simulator: Callable[[], Any]
    measure_speed: Callable[[], dict[str, float]]
    packages: tuple[str, ...]
    report: str

    def versions(self) -> dict[str, str]:
        """Return the versions of all packages."""
        return package_versions() | {name: version(name) for name in self.packages}


WORLDS = {
    "ray-caster": World(_ray_caster, measure_speed, ("numba",), "first_person"),
    "mujoco": World(_mujoco, measure_speed_of_mujoco, ("numba", "mujoco"), "first_person_mujoco"),
}


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: The world cannot be created here.
    """
    from jepa_sim.worlds.first_person.compilation import announce_compilation

    world = WORLDS[arguments.world]
    with announce_compilation(lambda line: console.print(line, style="dim")):
        per_second = world.measure_speed()
    rows = measure_levels(world.simulator(), arguments, console)
    return {
        "world": arguments.world,
        "seed": arguments.seed,
        "per_second": per_second,
        "machine": {"cpu": cpu_info(), "versions": world.versions()},
        "rows": [asdict(row) for row in rows],
    }


def merged(earlier: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Return the earlier report of the same world and seed with the rows of a new one.

    Raises:
        JepaRuntimeError: The reports belong to other settings.
    """
    if any(earlier[name] != report[name] for name in ("world", "seed")):
        raise JepaRuntimeError(
            "the earlier report is of another world or seed: choose another file with --json",
            code="benchmark.other_settings",
        )
    rows = {(row["level"], row["driver"]): row for row in (*earlier["rows"], *report["rows"])}
    order = [(level, driver) for level in LEVEL_NAMES for driver in FLOORS]
    return earlier | {"rows": [rows[place] for place in order if place in rows]}


def measure_robot(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Return the report of a bundle.

    Raises:
        JepaRuntimeError: The world cannot be created, or the bundle cannot be run here.
    """
    from jepa_sim.worlds.first_person.compilation import announce_compilation

    world = WORLDS[arguments.world]
    with announce_compilation(lambda line: console.print(line, style="dim")):
        simulator = world.simulator()
    return first_person_robot.measure(
        arguments,
        simulator,
        world.versions(),
        path=arguments.json or result_file(f"{world.report}_robot"),
        summarize=lambda level, driver, drives: asdict(Row.of(level, driver, drives)),
        console=console,
    )


def is_solvable(report: dict[str, Any], goal: float) -> bool:
    """Return whether the shortest path reaches the goals of every level."""
    from jepa_sim.closed_loop.first_person.floors import SHORTEST_PATH

    return all(row["rate"] >= goal for row in report["rows"] if row["driver"] == SHORTEST_PATH)


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report."""
    table = Table(box=SIMPLE, padding=0)
    for name in ("level", "driver", "reached", "95 %", "stopped", "s", "m off", "contacts"):
        table.add_column(name, justify="left" if name in ("level", "driver") else "right", no_wrap=True)
    for row in report["rows"]:
        low, high = row["interval"]
        table.add_row(
            row["level"], row["driver"], f"{row['rate']:.1%}", f"{low:.1%} to {high:.1%}",
            f"{row['stopped']} of {row['episodes']}", f"{row['mean_time_s']:.1f}",
            f"{row['median_distance_m']:.2f}", f"{row['contacts_per_episode']:.1f}",
        )  # fmt: skip
    console.print(table)
    if "per_second" not in report:
        return
    speeds = ", ".join(f"{name} {value:.0f}" for name, value in report["per_second"].items())
    console.print(f"per second of processor time: {speeds}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--episodes", type=count, default=300, metavar="N", help="episodes of each level (default: 300)")
    add("--seed", type=int, default=0, metavar="S", help="seed of the episodes (default: 0)")
    add(
        "--level", nargs="+", choices=LEVEL_NAMES, metavar="L",
        help=f"levels: {', '.join(LEVEL_NAMES)} (default: all)",
    )  # fmt: skip
    add(
        "--driver", nargs="+", choices=FLOORS, metavar="NAME",
        help="floors that drive; the report retains the rows of the others (default: all)",
    )  # fmt: skip
    add(
        "--policy", type=Path, default=POLICY, metavar="DIR",
        help="policy of the floor `behavior cloning`, as jepa-export train first_person --cloning-frames "
        "writes it (default: benchmarks/first_person_policy)",
    )  # fmt: skip
    add("--bundle", type=Path, metavar="DIR", help="drive with the code of the robot and this bundle")
    add(
        "--precision", nargs="+", choices=get_args(Precision), metavar="P",
        help="precisions of the bundle (default: all that OpenVINO can run on this processor)",
    )  # fmt: skip
    add(
        "--world", choices=WORLDS, default="ray-caster", metavar="W",
        help=f"what simulates the robot: {' or '.join(WORLDS)} (default: ray-caster)",
    )  # fmt: skip
    add("--goal", type=float, default=GOAL, metavar="RATE", help="limit of the exit status (default: 0.95)")
    add(
        "--json", type=Path, metavar="FILE",
        help="report (default: benchmarks/results/first_person.json, or first_person_mujoco.json; with "
        "--bundle one for each processor)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    console = Console()
    try:
        if arguments.bundle is not None:
            return _robot(arguments, console)
        return _floors(arguments, console)
    except JepaRuntimeError as error:
        print(f"first_person: {error}", file=sys.stderr)
        return 2


def _floors(arguments: argparse.Namespace, console: Console) -> int:
    arguments.level = arguments.level or LEVEL_NAMES
    report = measure(arguments, console)
    path = arguments.json or ROOT / "benchmarks" / "results" / f"{WORLDS[arguments.world].report}.json"
    if arguments.driver is not None and path.exists():
        report = merged(json.loads(path.read_text(encoding="utf-8")), report)
    write_json(path, report)
    show(report, console)
    return 0 if is_solvable(report, arguments.goal) else 1


def _robot(arguments: argparse.Namespace, console: Console) -> int:
    arguments.level = arguments.level or tuple(first_person_robot.GOALS)
    report = measure_robot(arguments, console)
    show(report, console)
    missed = first_person_robot.missed_goals(report["rows"])
    for failure in missed:
        print(f"first_person: {failure}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
