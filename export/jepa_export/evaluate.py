"""Scores of a bundle in closed loop, on the engine that will serve it; needs no torch.

An episode of Two Rooms counts as a success when the model itself says that the goal is reached (energy at
or below the bundle's threshold) and the robot truly stands there. Layouts, starts and goals come from seeds
that no training draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jepa_runtime import WorldModel
from jepa_runtime.planning.control import ControlConfig, Controller
from jepa_runtime.profiling.environment import cpu, versions
from jepa_runtime.shares import wilson
from jepa_runtime.worlds import TwoRooms
from jepa_runtime.worlds.geometry import MAX_SPEED_MPS, LayoutKind

# Training draws from numpy seed sequences of three numbers, evaluation from single large ones.
HELD_OUT_SEED = 1_000_000_000
SEEDS = (0, 1, 2)
MAX_STEPS = 80

Policy = Callable[[TwoRooms], "NDArray[np.floating] | None"]


@dataclass(frozen=True)
class Score:
    """Successes of ``episodes``, the Wilson 95 % interval of their share, and what they took (steps of
    those that succeeded, milliseconds for one decision: median and 95 %)."""

    episodes: int
    successes: int
    rate: float
    interval: tuple[float, float]
    mean_steps: float | None
    plan_ms_p50: float | None
    plan_ms_p95: float | None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def score(
    policy: Callable[[TwoRooms, int], Policy],
    *,
    layout: LayoutKind,
    step_s: float,
    seeds: tuple[int, ...],
    episodes: int,
    on_episode: Callable[[int, bool], None] = lambda _episode, _success: None,
) -> Score:
    """Run ``episodes`` episodes for each of ``seeds``.

    ``policy(world, seed)`` begins an episode and returns a function that gives the velocity for the next
    step, or None when it holds that the goal is reached."""
    steps_taken: list[int] = []
    spent_ms: list[float] = []
    total = len(seeds) * episodes
    for episode in range(total):
        seed = HELD_OUT_SEED + seeds[episode // episodes] * 1_000_000 + episode % episodes
        world = TwoRooms(layout=layout, seed=seed)
        decide, stopped = policy(world, seed), False
        for _ in range(MAX_STEPS):
            began = time.perf_counter()
            action = decide(world)
            spent_ms.append((time.perf_counter() - began) * 1e3)
            if action is None:
                stopped = True
                break
            world.step(action, step_s)
        success = stopped and world.reached()
        if success:
            steps_taken.append(round(world.time_s / step_s))
        on_episode(episode, success)
    return Score(
        episodes=total,
        successes=len(steps_taken),
        rate=len(steps_taken) / total,
        interval=wilson(len(steps_taken), total),
        mean_steps=float(np.mean(steps_taken)) if steps_taken else None,
        plan_ms_p50=float(np.percentile(spent_ms, 50)),
        plan_ms_p95=float(np.percentile(spent_ms, 95)),
    )


def model_policy(model: WorldModel, config: ControlConfig) -> Callable[[TwoRooms, int], Policy]:
    """The world model with receding-horizon control."""

    def begin(world: TwoRooms, seed: int) -> Policy:
        controller = Controller(model, world.render_goal(), config, seed=seed)

        def decide(now: TwoRooms) -> NDArray[np.floating] | None:
            decision = controller.decide(now.render())
            return None if decision.reached else decision.action

        return decide

    return begin


def straight_line(_world: TwoRooms, _seed: int) -> Policy:
    """Baseline that knows both positions and drives straight at the goal; it stops by the true distance."""

    def decide(world: TwoRooms) -> NDArray[np.floating] | None:
        return None if world.distance() < world.tolerance_m / 2 else (world.goal - world.position) / 0.2

    return decide


def random_actions(_world: TwoRooms, seed: int) -> Policy:
    """Baseline that moves at random; it stops by the true distance."""
    rng = np.random.default_rng(seed)

    def decide(world: TwoRooms) -> NDArray[np.floating] | None:
        return None if world.reached() else rng.uniform(-MAX_SPEED_MPS, MAX_SPEED_MPS, 2)

    return decide


BASELINES: dict[str, Callable[[TwoRooms, int], Policy]] = {
    "straight_line": straight_line,
    "random": random_actions,
}


def closed_loop(
    bundle: Path,
    *,
    layout: LayoutKind,
    seeds: tuple[int, ...],
    episodes: int,
    precisions: tuple[str, ...] = ("fp32", "int8"),
    baselines: bool = True,
) -> dict[str, Any]:
    """Score every precision of ``bundle`` on OpenVINO's CPU with one thread, and the baselines, with a
    progress bar.
    """
    config = ControlConfig()
    scores: dict[str, dict[str, object]] = {}
    with _progress() as progress:

        def run(name: str, policy: Callable[[TwoRooms, int], Policy], step_s: float) -> None:
            task = progress.add_task(name, total=len(seeds) * episodes, successes=0)

            def count(_episode: int, success: bool) -> None:
                done = progress.tasks[task].fields["successes"] + int(success)
                progress.update(task, advance=1, successes=done)

            result = score(
                policy, layout=layout, step_s=step_s, seeds=seeds, episodes=episodes, on_episode=count
            )
            scores[name] = result.as_dict()

        for precision in precisions:
            with WorldModel.open(bundle, engine="openvino:CPU", precision=precision) as model:
                step_s = model.manifest.io.step_s
                run(precision, model_policy(model, config), step_s)
        if baselines:
            for name, policy in BASELINES.items():
                run(name, policy, step_s)
    return {
        "world": f"Two Rooms, {layout} layouts never trained on, start and goal in different rooms",
        "stop": "decided by the model's energy; the baselines stop by the true distance",
        "tolerance_m": TwoRooms.tolerance_m,
        "max_steps": MAX_STEPS,
        "seeds": list(seeds),
        "planner": asdict(config),
        "engine": "openvino:CPU, 1 thread",
        "machine": {"cpu": cpu(), "versions": versions()},
        "scores": scores,
    }


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[successes]} reached"),
        TimeRemainingColumn(),
    )
