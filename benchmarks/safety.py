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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jepa_ros.planning.seeking import State
from numpy.typing import NDArray
from piloting import DEFAULTS, Nodes
from rich.console import Console
from rich.table import Table

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.closed_loop.episodes import Episode, episode_seeds
from jepa_runtime.closed_loop.scores import Goals
from jepa_runtime.commands.arguments import count, positive
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.outputs import write_json
from jepa_runtime.profiling.environment import environment
from jepa_runtime.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
RATE_HZ = 30.0
LASTS_S = 15.0

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Sent:
    """One image that the world model receives within a period: how long its stamp lies back, when in the
    period it arrives, and how many publishers its topic has."""

    image: Image
    behind_s: float = 0.0
    later_s: float = 0.0
    publishers: int = 1


class Fault(Protocol):
    """What the world model receives instead of the live image, period by period."""

    def before(self, image: Image) -> None:
        """Take note of a live image before the fault begins."""

    def sent(self, image: Image) -> list[Sent]:
        """What is received instead of a live image."""


@dataclass
class Ring:
    """The driver repeats its last buffers.

    Args:
        size: number of buffers.
        noise: amplitude of uniform noise added to each.
        drift: per second by which the brightness of the pictures falls and rises.
        jitter_s: standard deviation of the stamps.
    """

    size: int
    noise: int = 0
    drift: float = 0.0
    jitter_s: float = 0.0
    _buffers: list[Image] = field(default_factory=list)
    _count: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def before(self, image: Image) -> None:
        self._buffers = [*self._buffers, image][-self.size :]

    def picture(self) -> Image:
        picture = self._buffers[self._count % len(self._buffers)].astype(np.float32)
        self._count += 1
        if self.drift:
            picture *= 1 + 0.15 * np.sin(self.drift * self._count / RATE_HZ)
        if self.noise:
            picture += self._rng.integers(-self.noise, self.noise + 1, picture.shape)
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)

    def sent(self, image: Image) -> list[Sent]:
        behind_s = abs(self._rng.normal(0, self.jitter_s)) if self.jitter_s else 0.0
        return [Sent(self.picture(), behind_s)]


class Clock(Ring):
    """One picture with a clock drawn over it: a small part changes with each image."""

    def sent(self, image: Image) -> list[Sent]:
        picture = self.picture()
        picture[2:14, 2:60] = self._rng.integers(0, 2, (12, 58, 1)) * 255
        return [Sent(picture)]


@dataclass
class Half(Ring):
    """Half of each image is not transferred any more: it shows the last picture.

    Args:
        part: which.
    """

    size: int = 1
    part: str = "lower"

    def sent(self, image: Image) -> list[Sent]:
        picture, frozen = image.copy(), self.picture()
        middle = len(image) // 2
        which = {
            "lower": np.s_[middle:],
            "upper": np.s_[:middle],
            "left": np.s_[:, :middle],
            "right": np.s_[:, middle:],
            "rows": np.s_[::2],
        }[self.part]
        picture[which] = frozen[which]
        return [Sent(picture)]


@dataclass
class Alternate(Ring):
    """Live images and the last picture in turn.

    Args:
        live, frozen: how many of each in a row.
        last: the frozen ones repeat the live image before them, not the picture at the beginning.
    """

    size: int = 1
    live: int = 1
    frozen: int = 1
    last: bool = False
    _turn: int = 0

    def sent(self, image: Image) -> list[Sent]:
        is_live = self._turn % (self.live + self.frozen) < self.live
        self._turn += 1
        if is_live and self.last:
            self.before(image)
        return [Sent(image if is_live else self.picture())]


@dataclass
class Others:
    """A second publisher sends images of another room on the same topic.

    Args:
        own, other: how many images of each camera in a row.
        together: both come in each period, the robot's own first.
        behind_s: how far its stamps lie behind.
        counted: the world model reports the number of publishers.
    """

    own: int = 1
    other: int = 1
    together: bool = False
    behind_s: float = 0.0
    counted: bool = False
    _room: TwoRooms = field(default_factory=lambda: TwoRooms(seed=77))
    _turn: int = 0

    def before(self, image: Image) -> None:
        """Nothing is remembered."""

    def sent(self, image: Image) -> list[Sent]:
        publishers = 2 if self.counted else 1
        theirs = Sent(self._room.render(), self.behind_s, later_s=0.001, publishers=publishers)
        ours = Sent(image, publishers=publishers)
        if self.together:
            return [ours, theirs]
        is_own = self._turn % (self.own + self.other) < self.own
        self._turn += 1
        return [ours if is_own else theirs]


@dataclass
class Wrong:
    """Every ``each``-th image is noise."""

    each: int = 2
    _count: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def before(self, image: Image) -> None:
        """Nothing is remembered."""

    def sent(self, image: Image) -> list[Sent]:
        self._count += 1
        if self._count % self.each:
            return [Sent(image)]
        return [Sent(self._rng.integers(0, 256, image.shape).astype(np.uint8))]


FAULTS: dict[str, Callable[[], Fault]] = {
    **{f"ring of {size}": lambda size=size: Ring(size) for size in range(1, 9)},
    **{f"one image, noise {noise}": lambda noise=noise: Ring(1, noise=noise) for noise in (1, 2, 3)},
    "overlaid clock": lambda: Clock(1),
    **{
        f"{part} half frozen": lambda part=part: Half(part=part)
        for part in ("lower", "upper", "left", "right")
    },
    "every second row frozen": lambda: Half(part="rows"),
    "every second image repeated": lambda: Alternate(last=True),
    "two publishers in turn": Others,
    "two publishers, 2 : 1": lambda: Others(own=2),
    "two publishers, 1 : 2": lambda: Others(other=2),
    "two publishers, 5 ms behind": lambda: Others(together=True, behind_s=0.005),
    "two publishers, counted": lambda: Others(own=2, counted=True),
    "every second image wrong": Wrong,
    # Invented against the checks themselves.
    "ring of 12": lambda: Ring(12),
    "ring of 8, noise 3": lambda: Ring(8, noise=3),
    "ring of 30, noise 2": lambda: Ring(30, noise=2),
    "ring of 90, noise 2": lambda: Ring(90, noise=2),
    "one image, drifting brightness": lambda: Ring(1, noise=1, drift=1.0),
    "one image, jittering stamps": lambda: Ring(1, noise=1, jitter_s=0.004),
    "live and frozen in turn": Alternate,
    "live 0.5 s, frozen 0.5 s": lambda: Alternate(live=15, frozen=15, last=True),
    "every fifth image wrong": lambda: Wrong(5),
}


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


def without_fault(model: WorldModel, seeds: Sequence[int]) -> dict[str, Any]:
    """Goals reached, and false holds."""
    world, nodes, driven = TwoRooms(seed=0), Nodes(model, RATE_HZ), list[Episode]()
    for seed in seeds:
        driven += nodes.drive(world, seed, 1)
    hours = sum(each.steps for each in driven) / RATE_HZ / 3600
    holds = sum(nodes.guard.counts.values())
    return {
        "goals": asdict(Goals.of(driven)),
        "driven_s": round(hours * 3600, 1),
        "holds": dict(nodes.guard.counts),
        "false_holds_per_hour": round(holds / hours, 1),
    }


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The report.

    Raises:
        JepaRuntimeError: the bundle cannot be run.
    """
    bundle = Bundle.open(arguments.bundle)
    world, rows = TwoRooms(seed=0), list[Row]()
    with WorldModel.open(bundle, num_samples=bundle.manifest.num_samples) as model:
        precision = model.precision
        for name in arguments.faults or FAULTS:
            runs = [
                drive(Receiver(model, RATE_HZ), world, seed, FAULTS[name](), arguments.after)
                for seed in episode_seeds(arguments.seed, arguments.episodes)
            ]
            rows.append(Row.of(name, runs))
            console.print(f"{name}: {rows[-1].longest_path_m:.2f} m")
        normal = without_fault(model, episode_seeds(arguments.seed, arguments.normal))
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {"id": bundle.manifest.model_id, "sha256": bundle.sha256},
        "precision": precision,
        "parameters": {
            name: DEFAULTS[name] for name in ("frozen_after_s", "surprise_window_s", "surprise_ratio")
        },
        "fault_lasts_s": LASTS_S,
        "limit_m": arguments.limit,
        "faults": [asdict(row) for row in rows],
        "without_fault": normal,
        "environment": environment().model_dump(),
    }


def judge(report: dict[str, Any], limit_m: float, goal: float) -> list[str]:
    """What falls short."""
    failures = [
        f"{row['fault']}: {row['longest_path_m']:.2f} m, more than {limit_m:g} m"
        for row in report["faults"]
        if row["longest_path_m"] > limit_m
    ]
    rate = report["without_fault"]["goals"]["rate"]
    if rate < goal:
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
    normal = report["without_fault"]
    goals = normal["goals"]
    print(
        f"without a fault: {goals['successes']}/{goals['episodes']} goals reached, "
        f"{normal['false_holds_per_hour']:g} false holds per hour of driving ({normal['holds']} in "
        f"{normal['driven_s']:.0f} s)"
    )
    write_json(arguments.json, report)
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
    parser.add_argument("--after", type=positive, default=1.0, help="seconds before the fault (%(default)s)")
    parser.add_argument(
        "--limit", type=positive, default=2.5, help="longest path in m (default: %(default)s)"
    )
    parser.add_argument("--goal", type=float, default=0.95, help="share to be reached (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "safety.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
