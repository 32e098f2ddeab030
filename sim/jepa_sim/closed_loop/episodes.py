"""Episodes: who drives, and how one ends.

An episode counts as reached when its driver stops by itself and the robot truly is at the goal. A model
stops by its own energy, the baselines by the true distance. Starts and goals come from seeds that no training
draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jepa_runtime.control.synchronous_controller import ControlConfig, SynchronousController
from jepa_runtime.model.world_model import WorldModel
from jepa_sim.worlds.interface import Actions, HasStraightLine, Image, World

# Training draws from numpy seed sequences of three numbers, evaluation from single large ones.
HELD_OUT_SEED = 1_000_000_000
SEEDS = (0, 1, 2)

Outcome = Literal["reached", "wrong_place", "timeout"]
# What the camera shows -> the next action [A], or None: the goal is held to be reached.
Policy = Callable[[Image], "Actions | None"]
# One who drives: begins an episode in a world that was just reset, with the episode's seed.
Driver = Callable[[World, int], Policy]


@dataclass(frozen=True)
class Episode:
    """How an episode went.

    Attributes:
        seed: of the world and the driver.
        outcome: reached; stopped in the wrong place; or never stopped.
        steps: actions executed.
        distance: to the goal in the end, in the world's unit.
        plan_ms: what each decision took, from the frame to the action.
    """

    seed: int
    outcome: Outcome
    steps: int
    distance: float
    plan_ms: tuple[float, ...]


def episode_seeds(seeds: Sequence[int], episodes: int) -> list[int]:
    """One seed for each of ``episodes`` episodes of each of ``seeds``."""
    return [HELD_OUT_SEED + seed * 1_000_000 + episode for seed in seeds for episode in range(episodes)]


def run_episode(
    world: World, driver: Driver, *, seed: int, step_s: float, watch: Callable[[Image], None] = lambda _: None
) -> Episode:
    """Drive until the policy stops, or for as many decisions as the task allows; ``watch`` is shown what the
    policy sees.
    """
    world.reset(seed)
    task, decide = world.task, driver(world, seed)
    outcome: Outcome = "timeout"
    plan_ms: list[float] = []
    steps = 0
    for _ in range(task.max_steps):
        frame = world.render()
        watch(frame)
        began = time.perf_counter()
        action = decide(frame)
        plan_ms.append((time.perf_counter() - began) * 1e3)
        if action is None:
            outcome = "reached" if world.distance() <= task.tolerance else "wrong_place"
            break
        world.step(action, step_s)
        steps += 1
    return Episode(seed, outcome, steps, world.distance(), tuple(plan_ms))


def model_policy(model: WorldModel, config: ControlConfig) -> Driver:
    """The world model with receding-horizon control."""

    def begin(world: World, seed: int) -> Policy:
        controller = SynchronousController(model, world.render_goal(), config, seed=seed)

        def decide(frame: Image) -> Actions | None:
            decision = controller.decide(frame)
            return None if decision.reached else decision.action

        return decide

    return begin


def straight_line(world: World, _seed: int) -> Policy:
    """Baseline that knows where it and the goal are and goes straight there; it stops by the true distance.

    Raises:
        TypeError: the world knows no straight line.
    """
    if not isinstance(world, HasStraightLine):
        raise TypeError(f"{world.task.name}: knows no straight line")
    knowing, near = world, world.task.tolerance / 2
    return lambda _frame: None if world.distance() < near else knowing.straight_line()


def random_actions(world: World, seed: int) -> Policy:
    """Baseline that acts at random; it stops by the true distance."""
    # Of the seed alone, worlds draw where to begin and where the goal is.
    rng, task = np.random.default_rng((seed, 1)), world.task
    return lambda _frame: None if world.distance() <= task.tolerance else rng.uniform(task.low, task.high)


def baselines(world: World) -> dict[str, Driver]:
    """What needs no model, by name."""
    straight: dict[str, Driver] = {}
    if isinstance(world, HasStraightLine):
        straight["straight_line"] = straight_line
    return straight | {"random": random_actions}
