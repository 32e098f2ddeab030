"""How often the robot reaches its goal as the ROS nodes drive it, in virtual time: the inference of the world
model node, an image at --rate, one iteration of the search for each, with all checks of the planner node;
without processes and messages between them.

Every alarm there is a false one, and errors are counted against the bounds that were stated with the futures,
and against the bundle's own. --mcap records what the robot saw and did. The shipped bundle's error bounds and
normal data are made of such recordings, of layouts that are neither trained on nor evaluated:
--seed 3 --episodes 24 --goals 15 and --seed 5 --episodes 25 --goals 15, then `jepa-runtime calibrate`
(export/TRAINING.md).

Beside it the same held-out episodes as `benchmarks/success.py` has them: a whole plan once a step of the
model, and nothing that stops the robot. Exit status 1 if the nodes reach fewer than --goal of their goals, or
coverage of the learnt bounds is more than --points off at any horizon."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import covered
import numpy as np
from jepa_ros.planner.parameters import PARAMETERS
from numpy.typing import NDArray
from rich.console import Console

from jepa_runtime import Bundle, WorldModel
from jepa_runtime.calibration import Calibration, ErrorSample
from jepa_runtime.commands.arguments import count, positive
from jepa_runtime.control.controller import Controller, ControllerModel
from jepa_runtime.control.receding_horizon import Futures, State
from jepa_runtime.control.safety_monitor import SafetyMonitor
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.recording.run_recording import RunRecording
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.serving.types import Candidates, Result
from jepa_runtime.sources.base import Frame, view_name
from jepa_runtime.telemetry.environment import environment
from jepa_runtime.util.output_files import write_json
from jepa_sim.closed_loop.episodes import SEEDS, Episode, Outcome, episode_seeds
from jepa_sim.closed_loop.run import Plan, Tick, closed_loop, progress
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS: dict[str, Any] = {parameter.name: parameter.default for parameter in PARAMETERS}
# From an image to its command, as `make demo` finds it.
AGE_S = 0.006


class Nodes:
    """World model and planner, as their nodes put them together; clocks are those of the images."""

    def __init__(
        self,
        model: WorldModel,
        rate_hz: float,
        recording: RunRecording | None = None,
        **chosen: Any,
    ) -> None:
        manifest, chosen = model.manifest, DEFAULTS | chosen
        self._recording = recording
        self._period_ns = round(1e9 / rate_hz)
        self._now_ns = 10**12
        self._asked: Candidates | None = None
        self.inference = FrameProcessor(model, ProcessingConfig(candidates=lambda: self._asked))
        self.alarms: Counter[str] = Counter()
        self.calibration: Calibration | None = None
        self.judged: list[ErrorSample] = []
        self._places = 0
        self.guard = SafetyMonitor(
            surprise_window_s=chosen["surprise_window_s"],
            surprise_ratio=chosen["surprise_ratio"],
            frozen_after_s=chosen["frozen_after_s"],
            clock=lambda: self._now_ns / 1e9,
        )
        driver = ControllerModel.by_cem(
            chosen,
            ActionLimits.of(manifest),
            num_samples=model.num_samples,
            horizon=manifest.horizon,
            step_s=manifest.io.step_s,
            goal_threshold=manifest.goal_threshold,
            per_step=False,
        )
        self.seeker = driver.seeker
        self.pilot = Controller(
            self.guard, timeout_s=chosen["futures_timeout_s"], clock=lambda: self._now_ns / 1e9
        )
        self.pilot.exchange(driver)

    def drive(self, world: TwoRooms, seed: int, goals: int) -> list[Episode]:
        """So many goals, one after the other in one layout, from the next image on."""
        self.begin(world, seed)
        episodes = [self._reach(world, seed)]
        for _ in range(goals - 1):
            world.move_goal()
            episodes.append(self._reach(world, seed))
        return episodes

    def begin(self, world: TwoRooms, seed: int | None = None) -> None:
        """Put the robot elsewhere: images are those of another view from the next one on, as the node of the
        world announces it. ``seed``: see :meth:`TwoRooms.reset`."""
        world.reset(seed)
        self._places += 1

    def seek(self, world: TwoRooms) -> None:
        """Drive to the goal of ``world`` from the next image on."""
        self.inference.seek("", world.render_goal(), self._now_ns)

    def _reach(self, world: TwoRooms, seed: int) -> Episode:
        self.seek(world)
        outcome: Outcome = "timeout"
        images, longest_s = 0, world.task.max_steps * self.inference.model.manifest.io.step_s
        while images * self._period_ns / 1e9 < longest_s:
            command = self.see(world.render())
            images += 1
            if self.pilot.state is State.REACHED:
                outcome = "reached" if world.distance() <= world.task.tolerance else "wrong_place"
                break
            world.step(command, self._period_ns / 1e9)
        return Episode(seed, outcome, images, world.distance(), ())

    def see(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the command for the image of the next period."""
        self._now_ns += self._period_ns
        return self.look(image)

    def look(
        self, image: NDArray[np.uint8], *, behind_s: float = 0.0, publishers: int = 1
    ) -> NDArray[np.float64]:
        """Return the command for an image that is seen now.

        Args:
            behind_s: how old its stamp is.
            publishers: on the topic of the images.
        """
        stamp_ns = self._now_ns - round(behind_s * 1e9)
        view = view_name("camera", self._places)
        frame = Frame(stamp_ns=stamp_ns, image=image, frame_id=view, sequence=0)
        result = self.inference.process(frame, self._now_ns)
        self.calibration = result.calibration or self.calibration
        command: NDArray[np.float64] = np.zeros(2)
        if result.futures is not None:
            futures = replace(_futures(result), image_publishers=publishers)
            decision = self.pilot.update(futures, age_s=behind_s + AGE_S)
            if decision.question is not None:
                self._asked = Candidates(np.asarray(decision.question, np.float32), "cem", stamp_ns)
            if decision.command is not None:
                command = np.asarray(decision.command, np.float64)
            self.pilot.told(command)
        self.inference.add_action(self._now_ns + round(AGE_S * 1e9), command)
        judged = self.inference.with_surprise(result)
        if judged.executed is not None:
            self.pilot.judge(
                judged.surprising,
                executed=judged.executed,
                response=judged.response,
                discontinuous=judged.discontinuous,
            )
        told = self.inference.look_back(judged)
        if told is not None:
            self.alarms.update(alarm.kind for alarm in told.alarms if alarm.end_ns is None)
            self.judged += [] if told.judged is None else [told.judged]
        if self._recording is not None:
            self._recording.add_frame(frame, command.astype(np.float32))
        return command


def _futures(result: Result) -> Futures:
    if result.futures is None or result.futures.energies is None or result.current_energy is None:
        raise JepaRuntimeError("the model gave no energies to the goal")
    own = result.candidates is not None and result.candidates.source == "cem"
    return Futures(
        stamp_ns=result.stamp_ns,
        goal_stamp_ns=result.goal_stamp_ns,
        current_energy=result.current_energy,
        energies=result.futures.energies,
        answer_to_ns=result.candidates.stamp_ns if own else 0,
        history_reset="" if result.reset is None else result.reset.value,
    )


def measure(arguments: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    """The report.

    Raises:
        JepaRuntimeError: the bundle cannot be run.
    """
    bundle, world = Bundle.open(arguments.bundle), TwoRooms(seed=0)
    with ExitStack() as stack:
        model = stack.enter_context(WorldModel.open(bundle, num_samples=bundle.manifest.num_samples))
        recording = None
        if arguments.mcap is not None:
            recording = stack.enter_context(closing(RunRecording(arguments.mcap, model, jpeg=False)))
        nodes, driven = Nodes(model, arguments.rate, recording), []
        for seed in episode_seeds(arguments.seed, arguments.episodes):
            driven += nodes.drive(world, seed, arguments.goals)
            tick("nodes", driven[-1].outcome == "reached")
        precision = model.precision
    plan = Plan(
        precisions=(precision,), seeds=tuple(arguments.seed), episodes=arguments.episodes, baselines=False
    )
    planned = closed_loop(bundle, world, plan, tick=tick).as_dict()["scores"][precision]
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {"id": bundle.manifest.model_id, "sha256": bundle.sha256},
        "rate_hz": arguments.rate,
        "nodes": asdict(Goals.of(driven)),
        "mean_s": float(np.mean([each.steps for each in driven if each.outcome == "reached"]))
        / arguments.rate,
        "stops": dict(nodes.guard.counts),
        "alarms": {"surprise": 0, "change": 0} | nodes.alarms,
        "driven_s": round(sum(each.steps for each in driven) / arguments.rate, 1),
        "false_alarm_every_s": ProcessingConfig.false_alarm_every_s,
        "stuck": nodes.seeker.stuck_count,
        "probability": ProcessingConfig.error_probability,
        "coverage": covered.coverage(
            np.array([each.errors for each in nodes.judged]),
            np.array([each.stated for each in nodes.judged]),
            np.array(bundle.manifest.error_bounds),
        ),
        "planned": {key: planned[key] for key in ("successes", "episodes", "rate", "interval")},
        "environment": environment().model_dump(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        with progress(2 * len(arguments.seed) * arguments.episodes, Console()) as tick:
            report = measure(arguments, tick)
    except JepaRuntimeError as error:
        print(f"piloting: {error}", file=sys.stderr)
        return 2
    for name in ("nodes", "planned"):
        found = report[name]
        low, high = found["interval"]
        print(
            f"{name:<8} {found['successes']}/{found['episodes']} {found['rate']:.1%} [{low:.1%}, {high:.1%}]"
        )
    for key, whose in (("coverage", "learnt"), ("coverage_of_the_bundle", "the bundle's own")):
        held = " ".join(f"{row[key]:.3f}" for row in report["coverage"])
        print(f"coverage of {whose} bounds, stated {report['probability']:.0%}, by horizon: {held}")
    print(f"{report['mean_s']:.1f} s a goal reached, {report['stops']} stops, {report['stuck']} times stuck")
    print(f"alarms, all false: {report['alarms']} in {report['driven_s']:.0f} s")
    write_json(arguments.json, report)
    points = covered.farthest(report["coverage"], report["probability"])
    return int(report["nodes"]["rate"] < arguments.goal or points > arguments.points)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--episodes", type=int, default=100, help="for each seed (default: %(default)s)")
    parser.add_argument(
        "--goals", type=count, default=1, help="one after the other in each episode (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS), metavar="S")
    parser.add_argument("--rate", type=positive, default=30.0, help="images per second (%(default)s)")
    parser.add_argument("--goal", type=float, default=0.95, help="share to be reached (default: %(default)s)")
    parser.add_argument(
        "--points",
        type=positive,
        default=covered.MOST_POINTS,
        help="points by which coverage of the learnt bounds may be off (default: %(default)s)",
    )
    parser.add_argument(
        "--mcap", type=Path, help="keep what was seen and commanded there, as normal data to calibrate with"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "piloting.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
