"""Coverage of the error bounds and alarms of the shipped model in held-out layouts of Two Rooms.

Driving: the controller drives as in the ROS nodes (see continuous_driving.py), on which the bundle is
calibrated. Each run starts with the bounds of the bundle. Coverage is measured before and after a lasting
change: friction (the robot moves 0.7 of what is commanded) or lighting (pixels at 0.6 of their value).
continuous_driving.py measures it over a longer time, without a change.

Wandering: random commands, one image per model step. This is a distribution shift: errors of a wandering
robot are smaller, and the bounds of the bundle are too wide until they have adapted. The time until coverage
has settled is measured and limited. Coverage below the target is a failure at any time.

Surprise, while wandering: the highest score within one horizon after an impossible event, compared with the
same run without it, as AUROC; and whether an alarm begins in that time, at the default rate of false alarms.
False alarms are counted in the wandering runs, as one stream; continuous_driving.py counts those of the
controller.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import bound_coverage
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_export.data import two_rooms_recordings
from jepa_export.evaluation.surprise_separation import auroc
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.bundle import Manifest
from jepa_runtime.calibration import Alarms, ErrorSample, Score
from jepa_runtime.commands import count
from jepa_runtime.control import State
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.imaging import Image
from jepa_runtime.serving import FrameProcessor, ProcessingConfig
from jepa_runtime.sources import Frame
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import write_json
from jepa_sim.closed_loop.episodes import HELD_OUT_SEED
from jepa_sim.closed_loop.robot import SimulatedRobot
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_camera import backgrounds
from jepa_sim.worlds.two_rooms_geometry import Layouts, sample_positions

ROOT = Path(__file__).resolve().parent.parent
TELEPORT_M = 0.5
RATE_HZ = 30.0
# Goals in each layout of a driving run.
GOALS = 5
# Steps of a driving run before and after the change, and of a wandering run.
BEFORE, AFTER, WANDERING = 200, 400, 600
# Steps after a change, over which coverage is reported.
LATE = "from_100_to_400_after"
WINDOWS = {"first_50_after": (0, 50), "from_50_to_100_after": (50, 100), LATE: (100, 400)}
# Steps per point of the coverage curve, and per window that is checked while wandering.
POINT, WINDOW = 25, 200
MAX_POINTS, MIN_AUROC = bound_coverage.MOST_POINTS, 0.98
# Time limit for coverage to settle while wandering.
SETTLING_S = 60.0
CONFIG = ProcessingConfig()
# Offset of the seeds from those of other evaluations.
_PURPOSE = 700_000_000

Floats = NDArray[np.float64]


class Rooms(TwoRooms):
    """Two Rooms with faults."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=HELD_OUT_SEED + _PURPOSE + seed)
        self.moves = np.eye(2)
        self.brightness = 1.0
        self._frozen: Image | None = None

    def drive(self, velocity: Floats, dt_s: float) -> None:
        self.step(self.moves @ velocity, dt_s)

    def look(self) -> Image:
        if self._frozen is not None:
            return self._frozen
        return np.rint(self.render() * self.brightness).astype(np.uint8)

    def teleport(self) -> None:
        here = self._position
        while np.linalg.norm(self._position - here) < TELEPORT_M:
            self._position = sample_positions(self._rng, self.layouts)

    def remove_wall(self) -> None:
        """Remove the wall from the image: centered on the edge of the arena, it is hidden by the border."""
        rooms = self.layouts
        self._background = backgrounds(Layouts(rooms.axis, np.zeros_like(rooms.wall), rooms.door))

    def freeze(self) -> None:
        self._frozen = self.look()

    def slip(self) -> None:
        self.moves = 0.7 * np.eye(2)

    def turn_actions(self) -> None:
        """Rotate actions by a right angle."""
        self.moves = np.array([[0.0, -1.0], [1.0, 0.0]])

    def dim(self) -> None:
        self.brightness = 0.6


Change = Callable[[Rooms], None]
CHANGES: dict[str, Change] = {"friction": Rooms.slip, "lighting": Rooms.dim}
EVENTS: dict[str, Change] = {
    "teleport": Rooms.teleport,
    "wall removed": Rooms.remove_wall,
    "frozen camera": Rooms.freeze,
    "action mismatch": Rooms.turn_actions,
}


@dataclass(frozen=True)
class Run:
    """Prediction errors and alarms of one run.

    Attributes:
        steps: Step [n] of each sample, relative to the change or, without one, to the start.
        errors: Errors [n, H].
        stated: Stated bounds [n, H].
        scores: Score of each sample.
        alarms: Alarms that began, as step and kind.
    """

    steps: NDArray[np.int64]
    errors: Floats
    stated: Floats
    scores: list[Score | None]
    alarms: list[tuple[int, str]]

    def highest(self) -> float:
        """Return the highest score since the change."""
        return max(
            one.value
            for step, one in zip(self.steps, self.scores, strict=True)
            if step >= 0 and one is not None
        )

    def alarmed(self, kind: str, *, since: int, until: int) -> int:
        """Return the number of alarms of ``kind`` that began in these steps."""
        return sum(name == kind and since <= step < until for step, name in self.alarms)


def wander(model: WorldModel, *, seed: int, before: int, after: int, change: Change | None = None) -> Run:
    """Wander for ``before`` steps, apply the ``change``, and wander for ``after`` steps."""
    step_s = model.manifest.io.step_s
    world, processor = Rooms(seed), FrameProcessor(model, CONFIG)
    rng = np.random.default_rng((HELD_OUT_SEED, _PURPOSE, seed))
    samples, alarms = [], []
    for index, velocity in enumerate(two_rooms_recordings.wander(rng, 1, before + after)[0]):
        step, stamp_ns = index - before, round(index * step_s * 1e9)
        if change is not None and step == 0:
            change(world)
        processor.add_action(stamp_ns, velocity)
        result = processor.process(Frame(world.look(), stamp_ns, "", index), time.perf_counter_ns())
        calibrated = processor.update_calibration(processor.with_surprise(result))
        if calibrated is not None:
            if calibrated.error_sample is not None:
                samples.append((step, calibrated.error_sample))
            alarms += [(step, alarm.kind) for alarm in calibrated.alarms if alarm.end_ns is None]
        world.drive(velocity, step_s)
    return _run(samples, alarms, model.manifest.horizon)


def drive(model: WorldModel, *, seed: int, before: int, after: int, change: Change | None = None) -> Run:
    """Drive for ``before`` steps, apply the ``change``, and drive for ``after`` steps.

    There are :data:`GOALS` goals in each layout.
    """
    robot, world = SimulatedRobot(model, period_s=1 / RATE_HZ), Rooms(seed)
    per_step = round(model.manifest.io.step_s * RATE_HZ)
    samples, alarms = [], []
    robot.set_goal(world.render_goal())
    goals, images = 1, 0
    for index in range((before + after) * per_step):
        step = index // per_step - before
        if change is not None and index == before * per_step:
            change(world)
        known, begun = len(robot.error_samples), robot.alarms.copy()
        command = robot.step(world.look())
        samples += [(step, one) for one in robot.error_samples[known:]]
        alarms += [(step, kind) for kind in (robot.alarms - begun).elements()]
        world.drive(command, 1 / RATE_HZ)
        images += 1
        if robot.state is State.REACHED or images == world.task.max_steps * per_step:
            if goals % GOALS:
                world.move_goal()
            else:
                robot.begin_episode(world)
            robot.set_goal(world.render_goal())
            goals, images = goals + 1, 0
    return _run(samples, alarms, model.manifest.horizon)


def _run(samples: list[tuple[int, ErrorSample]], alarms: list[tuple[int, str]], horizon: int) -> Run:
    return Run(
        np.array([step for step, _ in samples], np.int64),
        np.array([one.errors for _, one in samples]).reshape(-1, horizon),
        np.array([one.stated for _, one in samples]).reshape(-1, horizon),
        [one.score for _, one in samples],
        alarms,
    )


def driven(bundle: Path, change: Change, seed: int) -> Run:
    """Return a driving run; each process opens the model once."""
    model = _model(bundle, Bundle.open(bundle).manifest.num_samples)
    return drive(model, seed=seed, before=BEFORE, after=AFTER, change=change)


def wandered(bundle: Path, change: Change | None, before: int, after: int, seed: int) -> Run:
    """Return a wandering run; each process opens the model once."""
    return wander(_model(bundle, 1), seed=seed, before=before, after=after, change=change)


@cache
def _model(bundle: Path, num_samples: int) -> WorldModel:
    return WorldModel.open(bundle, num_samples=num_samples)


def coverage(runs: Sequence[Run], start: Floats, since: int, until: int) -> list[dict[str, Any]]:
    """Return the coverage of each horizon over the same steps of all runs.

    Args:
        runs: The runs.
        start: Initial bounds [H], whose coverage is returned too.
        since: First step.
        until: Step after the last.
    """
    chosen = [(run.steps >= since) & (run.steps < until) for run in runs]
    errors = np.concatenate([run.errors[rows] for run, rows in zip(runs, chosen, strict=True)])
    stated = np.concatenate([run.stated[rows] for run, rows in zip(runs, chosen, strict=True)])
    return bound_coverage.coverage(errors, stated, start)


def curve(runs: Sequence[Run], start: Floats, since: int, until: int) -> list[dict[str, Any]]:
    """Return coverage and median bound of each horizon for every :data:`POINT` steps."""
    points = []
    for at in range(since, until, POINT):
        rows = coverage(runs, start, at, at + POINT)
        points.append(
            {
                "from_step": at,
                "coverage": [row["coverage"] for row in rows],
                "median_bound": [row["median_bound"] for row in rows],
            }
        )
    return points


def farthest(rows: list[dict[str, Any]]) -> float:
    """Return the largest deviation of the coverage; see :func:`bound_coverage.farthest`."""
    return bound_coverage.farthest(rows, CONFIG.error_probability)


def shortfall(rows: list[dict[str, Any]]) -> float:
    """Return how far the coverage of the worst horizon is below the target, in points."""
    return max(0.0, *(CONFIG.error_probability - row["coverage"] for row in rows)) * 100


def steady(runs: Sequence[Run], start: Floats) -> dict[str, Any]:
    """Return the coverage while driving, before a change."""
    rows = coverage(runs, start, -BEFORE, 0)
    return {
        "runs": len(runs),
        "steps": BEFORE,
        "coverage": rows,
        "shortfall_points": shortfall(rows),
        "curve": curve(runs, start, -BEFORE, 0),
    }


def changed(runs: Sequence[Run], start: Floats) -> dict[str, Any]:
    """Return the coverage while driving, after a change."""
    parts = {part: coverage(runs, start, *steps) for part, steps in WINDOWS.items()}
    return {
        "runs": len(runs),
        **parts,
        "max_deviation_points": {part: farthest(rows) for part, rows in parts.items()},
        "curve": curve(runs, start, 0, AFTER),
        "runs_with_change_alarm": sum(run.alarmed("change", since=0, until=AFTER) > 0 for run in runs),
    }


def settled(runs: Sequence[Run], start: Floats, step_s: float) -> dict[str, Any]:
    """Return the coverage while wandering, and when it settles.

    It has settled when it is within :data:`MAX_POINTS` of the target at all horizons, over every later window
    of :data:`WINDOW` steps.
    """
    windows = {at: coverage(runs, start, at, at + WINDOW) for at in range(0, WANDERING - WINDOW + 1, POINT)}
    off = [at for at, rows in windows.items() if farthest(rows) > MAX_POINTS]
    since = off[-1] + POINT if off else 0
    limit = round(SETTLING_S / step_s)
    return {
        "runs": len(runs),
        "steps": WANDERING,
        "first_50": coverage(runs, start, 0, 50),
        "before_limit": coverage(runs, start, 0, limit),
        "after_limit": coverage(runs, start, limit, WANDERING),
        "settled_after_s": since * step_s if since in windows else None,
        "settling_limit_s": SETTLING_S,
        "max_shortfall_points": max(map(shortfall, windows.values())),
        "max_deviation_points_after_limit": farthest(coverage(runs, start, limit, WANDERING)),
        "curve": curve(runs, start, 0, WANDERING),
    }


def false_alarms(manifest: Manifest, runs: list[Run]) -> dict[str, Any]:
    """Return the alarms in the scores of all runs as one stream, since a run is too short to detect a change.

    Raises:
        JepaRuntimeError: The bundle has no normal data.
    """
    normal, step_s, every_s = manifest.normal_scores, manifest.io.step_s, CONFIG.false_alarm_every_s
    if normal is None:
        raise JepaRuntimeError(
            f"{manifest.model_id}: the bundle has no normal data: add them with jepa-runtime calibrate",
            code="calibration.no_normal_data",
        )
    scores = [one for run in runs for one in run.scores if one is not None]
    alarms = Alarms(normal.highest, block=normal.block, step_s=step_s, false_alarm_every_s=every_s)
    begun = Counter(
        alarm.kind
        for at, one in enumerate(scores)
        for alarm in alarms.update(at, one)
        if alarm.end_ns is None
    )
    return {
        "false_alarms": {kind: begun[kind] for kind in ("surprise", "change")},
        "normal_s": len(scores) * step_s,
        "max_expected_false_alarms": len(scores) * step_s / every_s,
    }


def surprises(runs: dict[str, list[Run]], horizon: int) -> dict[str, Any]:
    """Return how well each event is distinguished from its absence, and how often it raises an alarm."""
    peaks = {name: np.array([run.highest() for run in with_event]) for name, with_event in runs.items()}
    normal = peaks.pop("normal")
    separation = {name: auroc(normal, peak, seed=0) for name, peak in peaks.items()}
    alarmed = {
        name: sum(run.alarmed("surprise", since=0, until=horizon) > 0 for run in of)
        for name, of in runs.items()
    }
    return {
        "events": {
            name: {
                "runs": len(peak),
                "auroc": separation[name][0],
                "interval": separation[name][1],
                "alarmed": alarmed[name],
            }
            for name, peak in peaks.items()
        },
        "normal_runs_with_alarm": alarmed["normal"],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: The bundle cannot be run.
    """
    path = arguments.bundle
    with WorldModel.open(path, num_samples=1) as model:
        manifest, engine = model.manifest, f"{model.engine}:{model.device}, {model.precision}"
    start, horizon, step_s = np.array(manifest.error_bounds), manifest.horizon, manifest.io.step_s
    # The runs with an event and without have the same layouts.
    events: dict[str, Change | None] = {"normal": None, **EVENTS}
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:

        def all_of(name: str, run: Callable[[int], Run], seeds: range) -> list[Run]:
            runs: Iterable[Run] = track(pool.map(run, seeds), name, total=len(seeds))
            return list(runs)

        driving = {
            name: all_of(
                f"driving, {name}",
                partial(driven, path, change),
                range(1000 * at, 1000 * at + arguments.runs),
            )
            for at, (name, change) in enumerate(CHANGES.items())
        }
        wandering = all_of(
            "wandering", partial(wandered, path, None, 0, WANDERING), range(5000, 5000 + arguments.wandering)
        )
        surprising = {
            name: all_of(
                name,
                partial(wandered, path, change, 2 * horizon, horizon),
                range(9000, 9000 + arguments.events),
            )
            for name, change in events.items()
        }
    return {
        "world": "Two Rooms, random layouts never trained on",
        "bundle": {"id": manifest.model_id, "version": manifest.version},
        "engine": engine,
        "machine": {"cpu": cpu_info(), "versions": package_versions()},
        "probability": CONFIG.error_probability,
        "step_s": step_s,
        "rate_hz": RATE_HZ,
        "driving": steady([run for of in driving.values() for run in of], start),
        "changes": {name: changed(of, start) for name, of in driving.items()},
        "wandering": settled(wandering, start, step_s),
        "surprise": {**false_alarms(manifest, wandering), **surprises(surprising, horizon)},
    }


def failures(report: dict[str, Any]) -> list[str]:
    """Return the limits that are missed.

    Coverage may be at most :data:`MAX_POINTS` too low while the bounds adapt, and at most that far off in
    either direction afterwards; and each event must be distinguished.
    """
    driving, wandering = report["driving"], report["wandering"]
    low = {
        "driving": driving["shortfall_points"],
        f"wandering, over {WINDOW} steps": wandering["max_shortfall_points"],
    }
    off = {
        f"driving, {change}, {LATE}": parts["max_deviation_points"][LATE]
        for change, parts in report["changes"].items()
    }
    off[f"wandering, after {SETTLING_S:g} s"] = wandering["max_deviation_points_after_limit"]
    missed = [
        f"{where}: coverage is {points:.1f} points {how}"
        for how, checked in (("too low", low), ("off", off))
        for where, points in checked.items()
        if points > MAX_POINTS
    ]
    missed += [
        f"{event}: AUROC {row['auroc']:.3f}, required {MIN_AUROC:g}"
        for event, row in report["surprise"]["events"].items()
        if row["auroc"] < MIN_AUROC
    ]
    return missed


def lines(report: dict[str, Any]) -> list[str]:
    """Return the report as lines of text."""

    def row(rows: list[dict[str, Any]]) -> str:
        ours = " ".join(f"{each['coverage']:.3f}" for each in rows)
        fixed = " ".join(f"{each['coverage_of_the_bundle']:.3f}" for each in rows)
        return f"learned bounds {ours} (off by {farthest(rows):.1f})   bundle's {fixed}"

    driving = report["driving"]
    text = [f"driving, {'before a change':<32} {row(driving['coverage'])}"]
    for change, parts in report["changes"].items():
        text += [
            f"driving, {change:<9} {part:<22} {row(parts[part])}" for part in parts["max_deviation_points"]
        ]
        text.append(f"driving, {change:<9} change alarm in {parts['runs_with_change_alarm']} runs")
    wandering = report["wandering"]
    text += [
        f"wandering, {part:<30} {row(wandering[part])}"
        for part in ("first_50", "before_limit", "after_limit")
    ]
    settling = wandering["settled_after_s"]
    text.append(
        f"wandering: {'not settled' if settling is None else f'settled after {settling:g} s'}, at most "
        f"{wandering['max_shortfall_points']:.1f} points too low over {WINDOW} steps"
    )
    surprise = report["surprise"]
    for event, each in surprise["events"].items():
        text.append(
            f"{event:<15} AUROC {each['auroc']:.3f}, alarm in {each['alarmed']} of {each['runs']} runs"
        )
    alarms = " and ".join(f"{number} {kind}" for kind, number in surprise["false_alarms"].items())
    text.append(
        f"false alarms: {alarms} in {surprise['normal_s']:.0f} s of wandering, expected at most "
        f"{surprise['max_expected_false_alarms']:.1f} of each"
    )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--runs", type=count, default=8, help="driving runs with each change (default: %(default)s)"
    )
    parser.add_argument("--wandering", type=count, default=40, help="wandering runs (default: %(default)s)")
    parser.add_argument(
        "--events", type=count, default=100, help="runs with each event (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=count, default=2, help="parallel processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "calibration.json")
    arguments = parser.parse_args(argv)
    try:
        report = measure(arguments)
    except JepaRuntimeError as error:
        print(f"calibration: {error}", file=sys.stderr)
        return 2
    for line in lines(report):
        print(line)
    write_json(arguments.json, report)
    missed = failures(report)
    for failure in missed:
        print(f"FAILED: {failure}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
