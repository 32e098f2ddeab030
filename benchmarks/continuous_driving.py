"""Goals reached by the robot over long runs, and false alarms and error bounds meanwhile, in simulated time.

The world model and the controller are those of the ROS nodes, with all safety checks: an image at --rate and
one search iteration for each. Unlike in success.py the robot is not restarted between episodes, so that its
error bounds adapt. Every alarm is a false one. Errors are counted against the bounds that were stated with
the futures and against the bundle's own. --mcap records what the robot saw and did. The error bounds and
normal data of the shipped bundle are made of such recordings, with layouts that are used neither for training
nor for evaluation: --seed 3 --episodes 24 --goals 15 and --seed 5 --episodes 25 --goals 15, then
`jepa-runtime calibrate` (recipes/TRAINING.md).

Exit status 1 if fewer than --goal of the goals are reached, or coverage of the learned bounds is more than
--points off at any horizon.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import bound_coverage
import numpy as np
from rich.console import Console

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.commands import count, positive
from jepa_runtime.control import State
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.recording import RunRecording
from jepa_runtime.serving import ProcessingConfig
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import write_json
from jepa_sim.closed_loop.episodes import SEEDS, Episode, Outcome, episode_seeds
from jepa_sim.closed_loop.robot import SimulatedRobot
from jepa_sim.closed_loop.run import Tick, progress
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent


def drive_goals(
    robot: SimulatedRobot, world: TwoRooms, seed: int, goals: int, rate_hz: float
) -> list[Episode]:
    """Drive to several goals in turn in one layout."""
    robot.begin_episode(world, seed)
    episodes = [_drive_goal(robot, world, seed, rate_hz)]
    for _ in range(goals - 1):
        world.move_goal()
        episodes.append(_drive_goal(robot, world, seed, rate_hz))
    return episodes


def _drive_goal(robot: SimulatedRobot, world: TwoRooms, seed: int, rate_hz: float) -> Episode:
    step_s = robot.processor.model.manifest.io.step_s
    robot.set_goal(world.render_goal())
    outcome: Outcome = "timeout"
    images = 0
    while images / rate_hz < world.task.max_steps * step_s:
        command = robot.step(world.render())
        images += 1
        if robot.state is State.REACHED:
            outcome = "reached" if world.distance() <= world.task.tolerance else "wrong_place"
            break
        world.step(command, 1 / rate_hz)
    return Episode(seed, outcome, images / rate_hz / step_s, world.distance(), ())


def measure(arguments: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: The bundle cannot be run.
    """
    bundle, world = Bundle.open(arguments.bundle), TwoRooms(seed=0)
    with ExitStack() as stack:
        model = stack.enter_context(WorldModel.open(bundle, num_samples=bundle.manifest.num_samples))
        recording = None
        if arguments.mcap is not None:
            recording = stack.enter_context(closing(RunRecording(arguments.mcap, model, jpeg=False)))
        record = None if recording is None else recording.add_frame
        robot = SimulatedRobot(model, period_s=1 / arguments.rate, record=record)
        driven = []
        for seed in episode_seeds(arguments.seed, arguments.episodes):
            driven += drive_goals(robot, world, seed, arguments.goals, arguments.rate)
            tick("nodes", driven[-1].outcome == "reached")
        step_s = model.manifest.io.step_s
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {"id": bundle.manifest.model_id, "sha256": bundle.sha256},
        "rate_hz": arguments.rate,
        "nodes": asdict(Goals.of(driven)),
        "mean_s": step_s * float(np.mean([each.steps for each in driven if each.outcome == "reached"])),
        "stops": dict(robot.stops),
        "alarms": {"surprise": 0, "change": 0} | robot.alarms,
        "driven_s": round(step_s * sum(each.steps for each in driven), 1),
        "false_alarm_every_s": ProcessingConfig.false_alarm_every_s,
        "stuck": robot.planner.stuck_count,
        "probability": ProcessingConfig.error_probability,
        "coverage": bound_coverage.coverage(
            np.array([each.errors for each in robot.error_samples]),
            np.array([each.stated for each in robot.error_samples]),
            np.array(bundle.manifest.error_bounds),
        ),
        "environment": read_environment().model_dump(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        with progress(len(arguments.seed) * arguments.episodes, Console()) as tick:
            report = measure(arguments, tick)
    except JepaRuntimeError as error:
        print(f"continuous_driving: {error}", file=sys.stderr)
        return 2
    goals = report["nodes"]
    low, high = goals["interval"]
    print(
        f"goals reached: {goals['successes']}/{goals['episodes']} {goals['rate']:.1%} [{low:.1%}, {high:.1%}]"
    )
    for key, whose in (("coverage", "learned"), ("coverage_of_the_bundle", "the bundle's own")):
        rates = " ".join(f"{row[key]:.3f}" for row in report["coverage"])
        print(f"coverage of {whose} bounds by horizon (target {report['probability']:.0%}): {rates}")
    print(
        f"{report['mean_s']:.1f} s per goal reached, stops: {report['stops']}, stuck: {report['stuck']} times"
    )
    print(f"false alarms: {report['alarms']} in {report['driven_s']:.0f} s")
    write_json(arguments.json, report)
    points = bound_coverage.farthest(report["coverage"], report["probability"])
    return int(report["nodes"]["rate"] < arguments.goal or points > arguments.points)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--episodes", type=int, default=100, help="episodes for each seed (default: %(default)s)"
    )
    parser.add_argument("--goals", type=count, default=1, help="goals in each episode (default: %(default)s)")
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS), metavar="S")
    parser.add_argument(
        "--rate", type=positive, default=30.0, help="images per second (default: %(default)s)"
    )
    parser.add_argument(
        "--goal", type=float, default=0.95, help="required success rate (default: %(default)s)"
    )
    parser.add_argument(
        "--points",
        type=positive,
        default=bound_coverage.MOST_POINTS,
        help="allowed deviation of the coverage of the learned bounds, in points (default: %(default)s)",
    )
    parser.add_argument(
        "--mcap", type=Path, help="record images and commands, as normal data for calibration"
    )
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks" / "results" / "continuous_driving.json"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
