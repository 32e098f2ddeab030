"""Bounds and surprise on the shipped model: a robot that wanders through held-out layouts of Two Rooms at the
camera's rate, and what happens to it.

Coverage: of errors within the bounds that were stated with the predictions, before and after a change that
stays: friction (the robot moves 0.7 of what it is told) or lighting (pixels 0.6 of what they were). Beside
it what the bundle's own bounds cover.
Surprise: the highest score in the seconds of one horizon after something that cannot be, against the same
without it, as AUROC; and how often a threshold from other, normal runs finds it. Errors are in units of the
bundle's bounds. Blocks of one room are alike, which the threshold's confidence does not know of. Actions to
come are known to the model, as if a planner kept to its plan."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_export.data.two_rooms import wander
from jepa_export.evaluate import HELD_OUT_SEED
from jepa_export.evaluation.surprise import auroc
from jepa_runtime import WorldModel
from jepa_runtime.bundle import Manifest
from jepa_runtime.calibration import Bounds, EventDetector, Ledger, Score, Share, normal_threshold, score
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.history import History
from jepa_runtime.imaging import Image
from jepa_runtime.profiling.environment import cpu, versions
from jepa_runtime.sources.commands import Commands
from jepa_runtime.worlds import TwoRooms
from jepa_runtime.worlds.geometry import Layouts, sample_positions
from jepa_runtime.worlds.rendering import backgrounds

ROOT = Path(__file__).resolve().parent.parent
PROBABILITY = 0.9
SETTLED = 200
TELEPORT_M = 0.5
ACTION_TOLERANCE = 0.01
# One false alarm in ten minutes at 30 Hz; in 30 minutes of normal data.
EVERY = 18_000
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
    """Errors and the bounds stated for them, both [frames, H]; NaN where nothing was foreseen."""

    errors: Floats
    stated: Floats


def drive(model: WorldModel, *, seed: int, frames: int, change: Change | None = None, at: int = 0) -> Run:
    """Wander for ``frames`` images; before that of index ``at`` comes the change."""
    manifest = model.manifest
    horizon, step_s, step_ns = manifest.horizon, manifest.io.step_s, round(manifest.io.step_s * 1e9)
    per_step = frames_per_step(manifest)
    world, history, ledger, bounds = Rooms(seed), *parts(model)
    commands = told(manifest, seed, frames // per_step + horizon + 2)
    errors, stated = np.empty((2, frames, horizon))
    for index in range(frames):
        stamp_ns = index * step_ns // per_step
        if change is not None and index == at:
            change(world)
        if index % per_step == 0:
            history.add_action(stamp_ns, commands.values[index // per_step])
        latent = model.encode(world.look())
        history.add_latent(stamp_ns, latent)
        found = ledger.arrive(stamp_ns, latent, history.mean_action)
        bounds.update(found.errors, found.stated)
        errors[index], stated[index] = found.errors, found.stated
        context = history.context()
        if context is not None:
            starts = stamp_ns + step_ns * np.arange(horizon, dtype=np.int64)
            futures = model.predict(
                commands.mean(starts, starts + step_ns)[None],
                latents=context.latents,
                history_actions=context.actions,
            )
            ledger.foresee(stamp_ns, futures.actions, futures.latents, bounds.stated())
        world.drive(commands.values[index // per_step].astype(float), step_s / per_step)
    return Run(errors, stated)


def frames_per_step(manifest: Manifest) -> int:
    return round(manifest.io.step_s * manifest.io.frame.rate_hz)


def parts(model: WorldModel) -> tuple[History, Ledger, Bounds]:
    """What a node would hold for one camera."""
    manifest, per_step = model.manifest, frames_per_step(model.manifest)
    step_ns = round(manifest.io.step_s * 1e9)
    history = History(
        manifest.history_size,
        step_ns,
        action_size=manifest.action_size,
        tolerance_ns=step_ns // 8,
        max_gap_ns=2 * step_ns,
    )
    ledger = Ledger(
        manifest.horizon,
        step_ns,
        tolerance_ns=step_ns // 8,
        action_tolerance=ACTION_TOLERANCE,
        capacity=manifest.horizon * per_step + 2,
    )
    bounds = Bounds(
        manifest.error_bounds,
        probability=PROBABILITY,
        delays=[(row + 1) * per_step for row in range(manifest.horizon)],
        latent_space=model.latent_space,
    )
    return history, ledger, bounds


def told(manifest: Manifest, seed: int, steps: int) -> Commands:
    """What the robot is told: another action each step."""
    velocities = wander(np.random.default_rng((HELD_OUT_SEED, _PURPOSE, seed)), 1, steps)[0]
    stamps = np.arange(steps, dtype=np.int64) * round(manifest.io.step_s * 1e9)
    action = manifest.io.action
    return Commands(action.names, action.units, stamps, velocities.astype(np.float32))


def coverage(runs: list[Run], start: Floats, frames: slice) -> list[dict[str, Any]]:
    """Of each horizon, over the same frames of all runs: ours, and the bounds ``start`` [H] as they stand."""
    errors = np.concatenate([run.errors[frames] for run in runs])
    stated = np.concatenate([run.stated[frames] for run in runs])
    rows = []
    for row in range(errors.shape[1]):
        came = ~np.isnan(errors[:, row])
        count, held = int(came.sum()), int((errors[came, row] <= stated[came, row]).sum())
        fixed = int((errors[came, row] <= start[row]).sum())
        rows.append(
            {
                "horizon": row + 1,
                "errors": count,
                "coverage": held / count,
                "interval": Share(held, count).interval(),
                "coverage_of_the_bundle": fixed / count,
                "median_bound": float(np.median(stated[came, row])),
            }
        )
    return rows


def scores(run: Run, start: Floats) -> list[Score | None]:
    """Of each frame of a run, in units of the bundle's bounds ``start`` [H]."""
    return [score(errors, start) for errors in run.errors]


def highest(of: list[Score | None]) -> float:
    return max(one.value for one in of if one is not None)


def changed(
    model: WorldModel, arguments: argparse.Namespace, seeds: dict[str, range]
) -> tuple[dict[str, Any], dict[str, list[Run]]]:
    """Coverage before and after each change, half-way through runs; and the runs."""
    start, half = np.array(model.manifest.error_bounds), arguments.frames // 2
    warm = frames_per_step(model.manifest) * model.manifest.horizon
    parts_of_run = {
        "before": slice(warm + SETTLED, half),
        f"first_{SETTLED}_after": slice(half, half + SETTLED),
        f"next_{SETTLED}_after": slice(half + SETTLED, half + 2 * SETTLED),
        "rest": slice(half + 2 * SETTLED, arguments.frames),
    }
    runs = {
        name: [
            drive(model, seed=seed, frames=arguments.frames, change=change, at=half)
            for seed in track(seeds[name], name)
        ]
        for name, change in CHANGES.items()
    }
    report = {
        name: {part: coverage(of, start, frames) for part, frames in parts_of_run.items()}
        for name, of in runs.items()
    }
    return report, runs


def surprises(model: WorldModel, seeds: dict[str, range], normal: list[list[Score | None]]) -> dict[str, Any]:
    """How well each event is told from its absence, and found at a threshold from ``normal`` runs.

    Every second of these gives the threshold, the others the false alarms: layouts of each are others.
    """
    start = np.array(model.manifest.error_bounds)
    block = frames_per_step(model.manifest) * model.manifest.horizon
    known = np.array([one.value for run in normal[::2] for one in run if one is not None])
    threshold = normal_threshold(known, block=block, every=EVERY)
    alarms, watched = 0, 0
    for run in normal[1::2]:
        detector = EventDetector(threshold)
        found = [detector.update(frame, one) for frame, one in enumerate(run)]
        alarms += sum(event is not None for event in found) + (detector.close() is not None)
        watched += len(run)
    peaks = {
        name: np.array(
            [
                highest(
                    scores(drive(model, seed=seed, frames=2 * block, change=change, at=block), start)[block:]
                )
                for seed in track(seeds[name], name)
            ]
        )
        for name, change in {"normal": None, **EVENTS}.items()
    }
    usual = peaks.pop("normal")
    told_apart = {name: auroc(usual, peak, seed=0) for name, peak in peaks.items()}
    return {
        "threshold": asdict(threshold),
        "false_alarms": alarms,
        "normal_frames_watched": watched,
        "stated_at_most": watched / threshold.every,
        "events": {
            name: {
                "runs": len(peak),
                "auroc": told_apart[name][0],
                "interval": told_apart[name][1],
                "detected": int((peak > threshold.value).sum()),
            }
            for name, peak in peaks.items()
        },
        "normal_runs_above": int((usual > threshold.value).sum()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Drive; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--runs", type=int, default=50, help="with each change (%(default)s)")
    parser.add_argument(
        "--frames", type=int, default=2400, help="of each; the change comes half-way (%(default)s)"
    )
    parser.add_argument("--events", type=int, default=100, help="runs with each event (%(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "calibration.json")
    arguments = parser.parse_args(argv)
    seeds = {name: range(1000 * at, 1000 * at + arguments.runs) for at, name in enumerate(CHANGES)}
    # Events happen in the rooms in which nothing happens, so that the two are compared there.
    seeds |= {name: range(9000, 9000 + arguments.events) for name in ("normal", *EVENTS)}
    try:
        with WorldModel.open(arguments.bundle) as model:
            least = 2 * (frames_per_step(model.manifest) * model.manifest.horizon + 2 * SETTLED) + 2
            if arguments.frames < least:
                print(f"calibration: --frames must be at least {least}", file=sys.stderr)
                return 2
            covered, runs = changed(model, arguments, seeds)
            start, half = np.array(model.manifest.error_bounds), arguments.frames // 2
            normal = [scores(run, start)[:half] for of in runs.values() for run in of]
            surprise = surprises(model, seeds, normal)
            report = {
                "world": "Two Rooms, random layouts never trained on, wandering, at the camera's rate",
                "bundle": {"id": model.manifest.model_id, "version": model.manifest.version},
                "engine": f"{model.engine}:{model.device}, {model.precision}",
                "machine": {"cpu": cpu(), "versions": versions()},
                "probability": PROBABILITY,
                "runs": arguments.runs,
                "frames": arguments.frames,
                "coverage": covered,
                "surprise": surprise,
            }
    except JepaRuntimeError as error:
        print(f"calibration: {error}", file=sys.stderr)
        return 2
    for line in lines(report):
        print(line)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def lines(report: dict[str, Any]) -> list[str]:
    """The report, to be read."""
    found = []
    for change, parts_of_run in report["coverage"].items():
        for part, rows in parts_of_run.items():
            ours = " ".join(f"{row['coverage']:.3f}" for row in rows)
            fixed = " ".join(f"{row['coverage_of_the_bundle']:.3f}" for row in rows)
            found.append(f"{change:<9} {part:<15} ours {ours}   bundle's {fixed}")
    surprise = report["surprise"]
    for event, row in surprise["events"].items():
        found.append(f"{event:<15} AUROC {row['auroc']:.3f}, detected {row['detected']} of {row['runs']}")
    found.append(
        f"false alarms: {surprise['false_alarms']} in {surprise['normal_frames_watched']} normal frames, "
        f"stated at most {surprise['stated_at_most']:.1f}"
    )
    return found


if __name__ == "__main__":
    sys.exit(main())
