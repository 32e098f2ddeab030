"""Bounds and alarms on the shipped model, as the runtime gives them: a robot that wanders through held-out
layouts of Two Rooms, and what happens to it. An image comes once a step of the model (0.2 s): of a camera
that is faster, the runtime judges one a step.

Coverage: of errors within the bounds that were stated with the futures, before and after a change that stays:
friction (the robot moves 0.7 of what it is told) or lighting (pixels 0.6 of what they were). Beside it what
the bundle's own bounds cover.
Surprise: the highest score in the seconds of one horizon after something that cannot be, against the same
without it, as AUROC; and whether an alarm begins in that time, at the default rate of false ones. False
alarms are counted in what was driven before the changes, run after run as one stream. The bundle's normal
data come from other layouts, in which a planner drives: there the model errs more than here, and alarms are
as rare as that takes. Those of the planner are counted by ``piloting.py``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import covered
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_export.data.two_rooms import wander
from jepa_export.evaluation.surprise import auroc
from jepa_runtime import WorldModel
from jepa_runtime.bundle import Manifest
from jepa_runtime.calibration import Alarm, Alarms, Score
from jepa_runtime.closed_loop.episodes import HELD_OUT_SEED
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.imaging import Image
from jepa_runtime.inference import Inference, Terms
from jepa_runtime.outputs import write_json
from jepa_runtime.profiling.environment import cpu, versions
from jepa_runtime.sources.base import Frame
from jepa_runtime.worlds import TwoRooms
from jepa_runtime.worlds.geometry import Layouts, sample_positions
from jepa_runtime.worlds.rendering import backgrounds

ROOT = Path(__file__).resolve().parent.parent
TELEPORT_M = 0.5
# Steps that are left out at the start of each run, while the bounds settle.
SETTLED = 50
# Steps after a change, over which coverage is told.
WINDOWS = {"first_50_after": (0, 50), "from_50_to_200_after": (50, 200), "from_200_to_400_after": (200, 400)}
AFTER = 400
MOST_POINTS, LEAST_AUROC = 2.0, 0.98
# Steps in each point of the course of coverage after a change.
POINT = 25
TERMS = Terms()
# Apart from the worlds of other evaluations.
_PURPOSE = 700_000_000

Floats = NDArray[np.float64]


class Rooms(TwoRooms):
    """Two Rooms, in which things go wrong."""

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
        """From the picture: centred on the arena's edge, it hides in the border."""
        rooms = self.layouts
        self._background = backgrounds(Layouts(rooms.axis, np.zeros_like(rooms.wall), rooms.door))

    def freeze(self) -> None:
        self._frozen = self.look()

    def slip(self) -> None:
        self.moves = 0.7 * np.eye(2)

    def turn_actions(self) -> None:
        """By a right angle."""
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
    """What was judged, once a step; ``steps`` [n] counts from the change on, ``errors`` and ``stated`` are
    [n, H]. With the alarms that began, each with the step of its beginning."""

    steps: NDArray[np.int64]
    errors: Floats
    stated: Floats
    scores: list[Score | None]
    alarms: list[tuple[int, Alarm]]

    def highest(self) -> float:
        """The highest score since the change."""
        return max(
            one.value
            for step, one in zip(self.steps, self.scores, strict=True)
            if step >= 0 and one is not None
        )

    def alarmed(self, kind: str, *, since: int, until: int) -> int:
        """How many alarms of ``kind`` began in these steps."""
        return sum(alarm.kind == kind and since <= step < until for step, alarm in self.alarms)


def drive(model: WorldModel, *, seed: int, before: int, after: int, change: Change | None = None) -> Run:
    """Wander for ``before`` steps, let the ``change`` happen, and wander on."""
    horizon, step_s = model.manifest.horizon, model.manifest.io.step_s
    world, inference = Rooms(seed), Inference(model, TERMS)
    rng = np.random.default_rng((HELD_OUT_SEED, _PURPOSE, seed))
    judged, alarms = [], []
    for index, velocity in enumerate(wander(rng, 1, before + after)[0]):
        step, stamp_ns = index - before, round(index * step_s * 1e9)
        if change is not None and step == 0:
            change(world)
        inference.add_action(stamp_ns, velocity)
        result = inference.process(Frame(world.look(), stamp_ns, "", index), time.perf_counter_ns())
        told = inference.look_back(inference.with_surprise(result))
        if told is not None:
            judged += [] if told.judged is None else [(step, told.judged)]
            alarms += [(step, alarm) for alarm in told.alarms if alarm.end_ns is None]
        world.drive(velocity, step_s)
    return Run(
        np.array([step for step, _ in judged], np.int64),
        np.array([one.errors for _, one in judged]).reshape(-1, horizon),
        np.array([one.stated for _, one in judged]).reshape(-1, horizon),
        [one.score for _, one in judged],
        alarms,
    )


def coverage(runs: list[Run], start: Floats, since: int, until: int) -> list[dict[str, Any]]:
    """Of each horizon, over the same steps of all runs: ours, and the bounds ``start`` [H] as they stand."""
    chosen = [(run.steps >= since) & (run.steps < until) for run in runs]
    errors = np.concatenate([run.errors[rows] for run, rows in zip(runs, chosen, strict=True)])
    stated = np.concatenate([run.stated[rows] for run, rows in zip(runs, chosen, strict=True)])
    return covered.coverage(errors, stated, start)


def course(runs: list[Run], start: Floats) -> list[dict[str, Any]]:
    """Coverage of each horizon after the change, over :data:`POINT` steps at a time."""
    return [
        {
            "from_step": since,
            "coverage": [row["coverage"] for row in coverage(runs, start, since, since + POINT)],
        }
        for since in range(0, AFTER, POINT)
    ]


def farthest(rows: list[dict[str, Any]]) -> float:
    """Of coverage over all horizons, the farthest from what is stated, in points."""
    return max(abs(row["coverage"] - TERMS.error_probability) for row in rows) * 100


def changed(
    model: WorldModel, arguments: argparse.Namespace, seeds: dict[str, range]
) -> tuple[dict[str, Any], list[Run]]:
    """Coverage before and after each change; and the runs."""
    start, report, driven = np.array(model.manifest.error_bounds), {}, []
    for name, change in CHANGES.items():
        runs = [
            drive(model, seed=seed, before=arguments.before, after=AFTER, change=change)
            for seed in track(seeds[name], name)
        ]
        windows = {"before": (SETTLED - arguments.before, 0), **WINDOWS}
        parts = {part: coverage(runs, start, *steps) for part, steps in windows.items()}
        noticed = sum(run.alarmed("change", since=0, until=AFTER) > 0 for run in runs)
        report[name] = {
            **parts,
            "farthest_points": {part: farthest(rows) for part, rows in parts.items()},
            "course": course(runs, start),
            "runs_with_a_change_noticed": noticed,
        }
        driven += runs
    return report, driven


def false_alarms(manifest: Manifest, runs: list[Run]) -> dict[str, Any]:
    """Alarms that begin in the scores before the changes, of all runs as one stream: what watches for changes
    gathers for longer than a run lasts, and a robot's is not made anew every minute.

    Raises:
        JepaRuntimeError: the bundle does not say what is normal.
    """
    normal, step_s, every_s = manifest.normal_scores, manifest.io.step_s, TERMS.false_alarm_every_s
    if normal is None:
        raise JepaRuntimeError(f"{manifest.model_id}: does not say what is normal (jepa-runtime calibrate)")
    scores = [
        one
        for run in runs
        for step, one in zip(run.steps, run.scores, strict=True)
        if step < 0 and one is not None
    ]
    alarms = Alarms(normal.highest, block=normal.block, step_s=step_s, false_alarm_every_s=every_s)
    begun = Counter(
        alarm.kind
        for at, one in enumerate(scores)
        for alarm in alarms.update(at, one)
        if alarm.end_ns is None
    )
    return {
        "false_alarms": {kind: begun[kind] for kind in ("surprise", "change")},
        "normal_seconds_watched": len(scores) * step_s,
        "stated_at_most_of_each": len(scores) * step_s / every_s,
    }


def surprises(model: WorldModel, seeds: dict[str, range]) -> dict[str, Any]:
    """How well each event is told from its absence, and whether an alarm begins within a horizon."""
    horizon = model.manifest.horizon
    runs = {
        name: [
            drive(model, seed=seed, before=2 * horizon, after=horizon, change=change)
            for seed in track(seeds[name], name)
        ]
        for name, change in {"normal": None, **EVENTS}.items()
    }
    peaks = {name: np.array([run.highest() for run in of]) for name, of in runs.items()}
    usual = peaks.pop("normal")
    told_apart = {name: auroc(usual, peak, seed=0) for name, peak in peaks.items()}
    return {
        "events": {
            name: {
                "runs": len(peak),
                "auroc": told_apart[name][0],
                "interval": told_apart[name][1],
                "alarmed": sum(run.alarmed("surprise", since=0, until=horizon) > 0 for run in runs[name]),
            }
            for name, peak in peaks.items()
        },
        "normal_runs_alarmed": sum(
            run.alarmed("surprise", since=0, until=horizon) > 0 for run in runs["normal"]
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Drive; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--runs", type=int, default=50, help="with each change (%(default)s)")
    parser.add_argument(
        "--before", type=int, default=200, help="steps of each before the change (%(default)s)"
    )
    parser.add_argument("--events", type=int, default=100, help="runs with each event (%(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "calibration.json")
    arguments = parser.parse_args(argv)
    if arguments.before <= SETTLED:
        print(f"calibration: --before must be more than {SETTLED}", file=sys.stderr)
        return 2
    seeds = {name: range(1000 * at, 1000 * at + arguments.runs) for at, name in enumerate(CHANGES)}
    # Events happen in the rooms in which nothing happens, so that the two are compared there.
    seeds |= {name: range(9000, 9000 + arguments.events) for name in ("normal", *EVENTS)}
    try:
        with WorldModel.open(arguments.bundle, num_samples=1) as model:
            covered, runs = changed(model, arguments, seeds)
            report = {
                "world": "Two Rooms, random layouts never trained on, wandering, an image a step",
                "bundle": {"id": model.manifest.model_id, "version": model.manifest.version},
                "engine": f"{model.engine}:{model.device}, {model.precision}",
                "machine": {"cpu": cpu(), "versions": versions()},
                "probability": TERMS.error_probability,
                "step_s": model.manifest.io.step_s,
                "runs": arguments.runs,
                "steps_before": arguments.before,
                "coverage": covered,
                "surprise": {**false_alarms(model.manifest, runs), **surprises(model, seeds)},
            }
    except JepaRuntimeError as error:
        print(f"calibration: {error}", file=sys.stderr)
        return 2
    for line in lines(report):
        print(line)
    write_json(arguments.json, report)
    return 0 if holds(report) else 1


def holds(report: dict[str, Any]) -> bool:
    """Whether coverage is what is stated before each change and once 200 steps have passed, and events are
    told apart."""
    points = [change["farthest_points"] for change in report["coverage"].values()]
    return max(max(of["before"], of["from_200_to_400_after"]) for of in points) <= MOST_POINTS and all(
        row["auroc"] >= LEAST_AUROC for row in report["surprise"]["events"].values()
    )


def lines(report: dict[str, Any]) -> list[str]:
    """The report, to be read."""
    found = []
    for change, parts in report["coverage"].items():
        for part, points in parts["farthest_points"].items():
            ours = " ".join(f"{row['coverage']:.3f}" for row in parts[part])
            fixed = " ".join(f"{row['coverage_of_the_bundle']:.3f}" for row in parts[part])
            found.append(f"{change:<9} {part:<22} ours {ours} (off by {points:.1f})   bundle's {fixed}")
        found.append(f"{change:<9} noticed as a change in {parts['runs_with_a_change_noticed']} runs")
    surprise = report["surprise"]
    for event, row in surprise["events"].items():
        found.append(f"{event:<15} AUROC {row['auroc']:.3f}, alarm in {row['alarmed']} of {row['runs']} runs")
    alarms = " and ".join(f"{count} {kind}" for kind, count in surprise["false_alarms"].items())
    found.append(
        f"false alarms: {alarms} in {surprise['normal_seconds_watched']:.0f} s of wandering about, stated at "
        f"most {surprise['stated_at_most_of_each']:.1f} of each"
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
