"""Success against latency with and without latency compensation, while the world goes on.

Two kinds of latency, because they differ:

    late       every image arrives this late, at the full rate (camera, network, a pipelined accelerator)
    thinking   every decision takes this long, and images that arrive meanwhile are lost

Further rows: images that are lost or arrive irregularly, a model swap, and a noisy neighbor, each with images
that are 100 ms late; and decisions that take times of other devices, drawn from profiles (`--profile`, see
``jepa-runtime profile``) or estimated by Intel's NPU compiler when the bundle was written (the sum over its
graphs; without preprocessing, planner and messages).

Drivers: the controller of the planner node with and without compensation, and floors that predict nothing:
straight to the goal from where the robot truly was when the image was taken, and with --policy behavior
cloning, which decides by the image as it arrives. In Two Rooms the controller plans by the energy of imagined
latents (CEM); in first-person rooms also by reading the pose of the goal (steering), as the robot drives
there. All have the same held-out episodes, in turns. An episode counts if its driver stops by itself and the
robot is truly at the goal.

In the world ``first_person_tr`` the robot repeats a route that it was shown once, and the first floor follows
the odometry of the route. With each image the robot is localized on the route: by energies to key frames, and
by reading its pose in the frames of three. The report has how long that takes here (``localization_ms``). All
decisions take that much longer, also those of the floors.

The age limit of images and the check for unseen motion are set for each latency, as an operator has to set
them (ChargedTime.adapted). Results are written on the way: an interrupted run continues from its report, also
with more episodes, latencies or drivers. Exit status 1 if, with compensation, the success rate of the first
planner with images that are 500 ms late is below 0.9 of that without latency.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from resumable_report import ResumableReport

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.commands import count, positive
from jepa_runtime.control import ControllerConfig, preset
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.reports import Plot, figure, line, numbers, page, section
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import end_with_parent, write_text
from jepa_sim.closed_loop.charged_time import (
    ChargedTime,
    Neighbor,
    npu_estimates,
    profiled_decisions,
    run_charged_episode,
)
from jepa_sim.closed_loop.episodes import Driver, Episode, episode_seeds, model_driver, straight_line
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds.interface import World
from jepa_sim.worlds.registry import make_world

ROOT = Path(__file__).resolve().parent.parent
# Duration of a decision where it is not what varies, as `make demo DEMO=two_rooms` measures it.
DECISION_S = 0.006
GOAL_MS, GOAL = 500, 0.9
COMPENSATED, PLAIN, CLONING = "compensated", "not compensated", "behavior cloning"
STRAIGHT, ODOMETRY = "straight line", "odometry only"
ROUTES = "first_person_tr"
COLUMNS = ("outcome", "seed", "steps", "distance")
# Of the disturbed rows: latency of images; duration of a decision next to a noisy neighbor, without it.
_DISTURBED_S, _NEIGHBOR_DECISION_S = 0.1, 0.03


@dataclass(frozen=True)
class Setting:
    """How a world is measured.

    Attributes:
        bundle: The bundle, unless another one is given.
        planners: Presets of planners by name; the first one decides about the goal of the benchmark.
        images_per_step: Images per model step.
        late_ms: Latencies of images.
        thinking_ms: Durations of decisions.
        floor: Name of the driver that predicts nothing.
    """

    bundle: Path
    planners: dict[str, str]
    images_per_step: int
    late_ms: tuple[float, ...]
    thinking_ms: tuple[float, ...]
    floor: str = STRAIGHT

    @classmethod
    def of(cls, world: str) -> Setting:
        """Return the setting of a world by its name."""
        if world.startswith("first_person"):
            planners = {"steering": "steering"} | ({} if world == ROUTES else {"CEM": "two_rooms"})
            return cls(
                ROOT / "models" / "first_person", planners, 3, (0, 100, 300, 500, 700, 1000), (100, 300),
                floor=ODOMETRY if world == ROUTES else STRAIGHT,
            )  # fmt: skip
        return cls(
            ROOT / "models" / "two_rooms", {"CEM": "two_rooms"}, ControllerConfig().images_per_step,
            (0, 100, 200, 300, 500, 750, 1000), (50, 100, 150, 200),
        )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One latency.

    Attributes:
        kind: ``late``, ``thinking``, ``disturbed``, ``profile`` or ``estimate``.
        label: Milliseconds, the disturbance, the name of a profile, or an NPU platform.
        charged: The time that is charged.
    """

    kind: str
    label: str
    charged: ChargedTime

    @property
    def key(self) -> str:
        """Kind and label."""
        return f"{self.kind} {self.label}"


def cells(arguments: argparse.Namespace, bundle: Bundle) -> Iterator[Cell]:
    """Yield the latencies.

    Raises:
        ProfileError: A profile cannot be read, or has no samples.
    """
    for ms in arguments.late_ms:
        yield Cell("late", f"{ms:g}", ChargedTime(decisions_s=(DECISION_S,), transport_s=ms / 1e3))
    for ms in arguments.thinking_ms:
        yield Cell("thinking", f"{ms:g}", ChargedTime(decisions_s=(ms / 1e3,)))
    disturbed = ChargedTime(decisions_s=(DECISION_S,), transport_s=_DISTURBED_S)
    for dropped in arguments.dropped:
        yield Cell("disturbed", f"{dropped:.0%} of the images lost", replace(disturbed, dropped=dropped))
    for ms in arguments.jitter_ms:
        yield Cell("disturbed", f"jitter up to {ms:g} ms", replace(disturbed, jitter_s=ms / 1e3))
    for at_s in arguments.swap_at_s:
        yield Cell("disturbed", f"model swap after {at_s:g} s", replace(disturbed, swap_at_s=at_s))
    for factor in arguments.neighbor:
        slowed = replace(disturbed, decisions_s=(_NEIGHBOR_DECISION_S,), neighbor=Neighbor(factor=factor))
        yield Cell("disturbed", f"noisy neighbor, {factor:g} x", slowed)
    for path in arguments.profile:
        yield Cell("profile", path.name, ChargedTime(decisions_s=profiled_decisions(path)))
    for platform, estimate_s in npu_estimates(bundle.report() or {}).items():
        yield Cell("estimate", platform, ChargedTime(decisions_s=(estimate_s,)))


@dataclass(frozen=True)
class Task:
    """One episode of some drivers; runs in another process.

    Attributes:
        bundle: The bundle.
        policy: Folder of a cloned policy; None: there is none.
        world: Name of the world.
        cell: The latency.
        seed: Seed of the episode.
        drivers: Names of the drivers.
        localization_s: Time in which the robot is localized on a route, which each decision takes longer.
    """

    bundle: Path
    policy: Path | None
    world: str
    cell: Cell
    seed: int
    drivers: tuple[str, ...]
    localization_s: float

    @property
    def charged(self) -> ChargedTime:
        """The time that is charged."""
        given = self.cell.charged
        return replace(given, decisions_s=tuple(each + self.localization_s for each in given.decisions_s))


def driver_names(setting: Setting, policy: Path | None) -> dict[str, tuple[str, bool] | None]:
    """Return the drivers: planner, and whether it compensates latency; None: without a model of the world."""
    names: dict[str, tuple[str, bool] | None] = {}
    for planner in setting.planners:
        prefix = f"{planner}, " if len(setting.planners) > 1 else ""
        names |= {f"{prefix}{COMPENSATED}": (planner, True), f"{prefix}{PLAIN}": (planner, False)}
    names[setting.floor] = None
    return names if policy is None else names | {CLONING: None}


def drive(task: Task) -> dict[str, list[Any]]:
    """Return the values of :data:`COLUMNS` of each driver."""
    world, found = _world(task.world), {}
    step_s = Bundle.open(task.bundle).manifest.io.step_s
    for name in task.drivers:
        driver = _driver(task, name, world)
        episode = run_charged_episode(world, driver, task.charged, seed=task.seed, step_s=step_s)
        found[name] = [episode.outcome, task.seed, round(episode.steps, 3), round(episode.distance, 3)]
    return found


def _driver(task: Task, name: str, world: World) -> Driver:
    setting = Setting.of(task.world)
    planned = driver_names(setting, task.policy)[name]
    if planned is not None:
        planner, compensates = planned
        config = task.charged.adapted(preset(setting.planners[planner]))
        config = replace(config, images_per_step=setting.images_per_step, compensate_latency=compensates)
        model = _model(task.bundle, config.search.num_samples)
        if task.world == ROUTES:
            return _repeating(model, task, config, world)
        return model_driver(model, config, world.task)
    if name == STRAIGHT:
        return replace(straight_line(), images_per_step=setting.images_per_step)
    if name == ODOMETRY:
        return _following_odometry(setting.images_per_step)
    assert task.policy is not None
    return _cloning(task.policy, task.world, setting.images_per_step)


def _repeating(model: WorldModel, task: Task, config: ControllerConfig, world: Any) -> Driver:
    from jepa_sim.closed_loop.first_person.charged_route import route_driver
    from jepa_sim.closed_loop.repeat import RepeatConfig

    route = _route(task.bundle, task.seed)
    return route_driver(model, route, RepeatConfig(controller=config), world)


def _following_odometry(images_per_step: int) -> Driver:
    from jepa_sim.closed_loop.first_person.charged_route import reflex_driver
    from jepa_sim.closed_loop.first_person.floors import odometry_only

    return reflex_driver(odometry_only(), images_per_step)


# A process retains its world and its models.
@cache
def _world(name: str) -> World:
    return _open_world(name)


@cache
def _model(bundle: Path, num_samples: int) -> WorldModel:
    opened = Bundle.open(bundle)
    return WorldModel.open(opened, num_samples=min(num_samples, opened.manifest.num_samples))


def _steering_model(bundle: Path) -> WorldModel:
    return _model(bundle, preset("steering").search.num_samples)


# All drives of an episode follow each other.
@lru_cache(maxsize=1)
def _route(bundle: Path, seed: int) -> Any:
    """Return the route that the robot is shown in an episode."""
    from jepa_sim.closed_loop.first_person.charged_route import shown_route

    world: Any = _world(ROUTES)
    world.reset(seed)
    return shown_route(_steering_model(bundle), world, seed)


@cache
def _cloning(folder: Path, world: str, images_per_step: int) -> Driver:
    from jepa_sim.closed_loop.first_person.charged_route import reflex_driver
    from jepa_sim.closed_loop.first_person.cloned_policy import ClonedPolicy
    from jepa_sim.closed_loop.first_person.cloning_driver import cloning_driver, seek

    policy = ClonedPolicy(folder)
    if world == ROUTES:
        return reflex_driver(cloning_driver(policy), images_per_step)
    return Driver(lambda world, _seed: seek(policy, world.render_goal()), images_per_step)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: The bundle cannot be run, a profile cannot be read, or the report belongs to other
            settings.
    """
    setting = Setting.of(arguments.world)
    opened = Bundle.open(arguments.bundle or setting.bundle)
    every = list(cells(arguments, opened))
    seeds = episode_seeds(arguments.seed, arguments.episodes)
    names = driver_names(setting, arguments.policy)
    if arguments.driver is not None:
        if unknown := set(arguments.driver) - names.keys():
            raise JepaRuntimeError(
                f"no driver is named {', '.join(sorted(unknown))}: choose from {'; '.join(names)}",
                code="benchmark.unknown_driver",
            )
        names = {name: planned for name, planned in names.items() if name in arguments.driver}
    report = _report(arguments, setting, opened, every)
    localization_s = report.fields.get("localization_ms", 0.0) / 1e3
    tasks = [
        Task(opened.path, arguments.policy, arguments.world, cell, seed, missing, localization_s)
        for seed in seeds
        for cell in every
        if (missing := tuple(name for name in names if seed not in _seeds(report, cell, name)))
    ]
    ends = time.monotonic() + 60 * arguments.max_minutes
    for done, (task, episodes) in enumerate(_drive_all(tasks, arguments.jobs), 1):
        for name, values in episodes.items():
            report.drives.setdefault(task.cell.key, {}).setdefault(name, []).append(values)
        report.save()
        if task.seed != (tasks[done].seed if done < len(tasks) else None):
            print(f"{seeds.index(task.seed) + 1} of {len(seeds)} episodes", flush=True)
        if time.monotonic() > ends:
            break
    report.save(now=True)
    return report.as_dict()


def _drive_all(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict[str, list[Any]]]]:
    """Yield each task with its episodes, in order; tasks that nobody waits for are not begun."""
    if jobs == 1:
        yield from zip(tasks, map(drive, tasks), strict=True)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), end_with_parent) as pool:
        try:
            yield from zip(tasks, pool.map(drive, tasks), strict=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _report(
    arguments: argparse.Namespace, setting: Setting, opened: Bundle, every: Sequence[Cell]
) -> ResumableReport:
    """Return the report, which continues an earlier one.

    Raises:
        JepaRuntimeError: The bundle cannot be run, or the report belongs to other settings.
    """
    path = arguments.json or result_path(arguments.world)
    with closing(_open_world(arguments.world)) as world, WorldModel.open(opened, num_samples=1) as model:
        task, precision, engine = world.task, model.precision, f"{model.engine}:{model.device}"
    given = {cell.key: cell.charged.as_dict() for cell in every}
    if arguments.policy is not None:
        given[CLONING] = _hash(arguments.policy)
    fields = {
        "settings": {
            "bundle": opened.sha256,
            "world": arguments.world,
            "images_per_step": setting.images_per_step,
        },
        "world": task.name,
        "tolerance_m": task.tolerance,
        "model": f"{opened.manifest.model_id} {opened.manifest.version}",
        "precision": precision,
        "engine": engine,
        "step_s": opened.manifest.io.step_s,
        "machine": read_environment().model_dump(mode="json"),
    }
    report = ResumableReport(path, fields, COLUMNS, _row)
    earlier = report.earlier.get("given", {})
    for key, value in given.items():
        if earlier.get(key, value) != value:
            raise JepaRuntimeError(
                f"{path}: has other times, or another policy, for {key!r}: remove it, or choose another file "
                "with --json",
                code="benchmark.other_settings",
            )
    report.fields["given"] = earlier | given
    if arguments.world == ROUTES:
        report.fields["localization_ms"] = report.earlier.get("localization_ms") or _localization_ms(
            opened.path, episode_seeds(arguments.seed, 1)[0]
        )
    return report


def _localization_ms(bundle: Path, seed: int) -> float:
    """Return the time in which the robot is localized on the route of an episode, measured here."""
    from jepa_sim.closed_loop.first_person.charged_route import localization_s

    return round(1e3 * localization_s(_steering_model(bundle), _route(bundle, seed)), 3)


def _open_world(name: str) -> World:
    return make_world("jepa_sim.worlds.first_person.world:level_tr" if name == ROUTES else name)


def _hash(folder: Path) -> str:
    """Return a hash of the files in a folder."""
    content = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()


def result_path(world: str) -> Path:
    """Return the committed report of a world."""
    suffix = "" if world == "two_rooms" else f".{world}"
    return ROOT / "benchmarks" / "results" / f"time_charged{suffix}.json"


def _seeds(report: ResumableReport, cell: Cell, driver: str) -> set[int]:
    """Return the seeds of the finished episodes."""
    return {values[COLUMNS.index("seed")] for values in report.drives.get(cell.key, {}).get(driver, [])}


def _row(key: str, driver: str, found: Sequence[Any]) -> dict[str, Any]:
    kind, label = key.split(" ", 1)
    episodes = [Episode(one.seed, one.outcome, one.steps, one.distance, ()) for one in found]
    return {"kind": kind, "latency": label, "driver": driver, **asdict(Goals.of(episodes))}


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return success with late images as a proportion of that without latency, by compensated driver.

    The first one is that of the first planner. A driver that was not measured, or never succeeds without
    latency, is left out.
    """
    found: dict[str, float] = {}
    for driver in dict.fromkeys(row["driver"] for row in rows):
        late = {
            row["latency"]: row["rate"] for row in rows if (row["kind"], row["driver"]) == ("late", driver)
        }
        compensates = driver == COMPENSATED or driver.endswith(f", {COMPENSATED}")
        if compensates and late.get("0") and str(GOAL_MS) in late:
            found[driver] = late[str(GOAL_MS)] / late["0"]
    return found


def render(report: dict[str, Any]) -> str:
    """Return the report as a page with a chart of the late images."""
    late = [row for row in report["rows"] if row["kind"] == "late"]
    last_ms = max([float(row["latency"]) for row in late], default=0.0) or 1.0
    plot = Plot(width=1120, height=320, left=100)
    parts = [*plot.values(100.0, "% of the goals"), *plot.round_ticks(last_ms, "ms")]
    names = list(dict.fromkeys(row["driver"] for row in late))
    for color, name in enumerate(names):
        rows = sorted((row for row in late if row["driver"] == name), key=lambda row: float(row["latency"]))
        points = [(float(row["latency"]) / last_ms, row["rate"]) for row in rows]
        parts.append(plot.polyline(points, f"s{color} stroke"))
        parts += [
            line("whisker", plot.x(x), plot.y(low), plot.x(x), plot.y(high))
            for (x, _), (low, high) in zip(points, (row["interval"] for row in rows), strict=True)
        ]
    caption = "Goals reached against the latency of the images. Whiskers: 95 % (Wilson)."
    head = ("kind", "ms or profile", "driver", "reached", "95 %", "wrong place", "timeout")
    table = [
        [
            row["kind"],
            row["latency"],
            row["driver"],
            f"{row['rate']:.1%}",
            "{:.1%} to {:.1%}".format(*row["interval"]),
            str(row["outcomes"].get("wrong_place", 0)),
            str(row["outcomes"].get("timeout", 0)),
        ]
        for row in report["rows"]
    ]
    chart = figure(plot.svg(parts, caption), caption, legend=names, wide=True)
    episodes = sorted({row["episodes"] for row in report["rows"]})
    subtitle = f"{report['world']}; {report['model']}; {' or '.join(map(str, episodes))} episodes"
    data = {"report": "time_charged", **report}
    return page(
        "Success against latency", subtitle, [section("Goals reached", chart, numbers(head, table))], data
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes and return the exit status."""
    arguments = _parser().parse_args(argv)
    setting = Setting.of(arguments.world)
    if arguments.late_ms is None:
        arguments.late_ms = list(setting.late_ms)
    if arguments.thinking_ms is None:
        arguments.thinking_ms = list(setting.thinking_ms)
    try:
        report = measure(arguments)
    except JepaRuntimeError as error:
        print(f"time_charged: {error}", file=sys.stderr)
        return 2
    if arguments.html is not None:
        write_text(arguments.html, render(report))
    for row in report["rows"]:
        low, high = row["interval"]
        print(
            f"{row['kind']:<9} {row['latency']:>6}  {row['driver']:<26} "
            f"{row['successes']:>4}/{row['episodes']:<4} {row['rate']:6.1%} [{low:.1%}, {high:.1%}]"
        )
    found = ratios(report["rows"])
    for driver, ratio in found.items():
        print(f"{driver}: with images {GOAL_MS} ms late {ratio:.3f} of the success rate without latency")
    judged = next(name for name, planned in driver_names(setting, None).items() if planned is not None)
    if judged not in found:
        return 0
    print(f"goal: {judged}, at least {GOAL:g}")
    return int(found[judged] < GOAL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--world",
        default="two_rooms",
        metavar="W",
        help=f"world, as of jepa-runtime drive, or {ROUTES} (default: %(default)s)",
    )
    parser.add_argument("--bundle", type=Path, help="bundle (default: the one of this world in models/)")
    parser.add_argument(
        "--policy", type=Path, metavar="FOLDER", help="also drive with this policy of behavior cloning"
    )
    parser.add_argument(
        "--driver",
        nargs="+",
        metavar="D",
        help="only these drivers, by their names in the report (default: all)",
    )
    parser.add_argument(
        "--episodes", type=count, default=100, help="episodes for each seed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[0], metavar="S")
    for option, meaning, default in (
        ("--late-ms", "images arrive this late", None),
        ("--thinking-ms", "decisions take this long", None),
        ("--dropped", "proportions of images that are lost", [0.3]),
        ("--jitter-ms", "largest jitters of images", [200.0]),
        ("--swap-at-s", "times of a model swap", [2.0]),
        ("--neighbor", "decisions take this many times longer, half a second of every two", [10.0]),
    ):
        parser.add_argument(option, type=float, nargs="*", default=default, metavar="X", help=meaning)
    parser.add_argument("--profile", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument(
        "--max-minutes",
        type=positive,
        default=60.0,
        metavar="M",
        help="end with the episodes that are finished by then; run again to continue (default: %(default)g)",
    )
    parser.add_argument("--jobs", type=count, default=2, help="processes (default: %(default)s)")
    parser.add_argument(
        "--json", type=Path, help="the report (default: one for each world in benchmarks/results)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with a chart to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
