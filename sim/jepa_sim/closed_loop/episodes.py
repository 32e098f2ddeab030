"""Episodes: who drives, and how one ends.

An episode counts as reached when its driver stops by itself and the robot is truly at the goal. A model stops
by its own energy, the baselines by the true distance. Starts and goals come from seeds that no training uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from jepa_runtime.bundle import Manifest
from jepa_runtime.control import ControllerConfig
from jepa_runtime.model import WorldModel
from jepa_sim.closed_loop.robot import Proposer, RobotPolicy
from jepa_sim.worlds.interface import Actions, HasStraightLine, Image, Task, World

# Training uses numpy seed sequences of three numbers, evaluation single large ones.
HELD_OUT_SEED = 1_000_000_000
SEEDS = (0, 1, 2)

Outcome = Literal["reached", "wrong_place", "timeout"]
# From an image to the next action [A], or None if the goal counts as reached.
Policy = Callable[[Image], "Actions | None"]


@runtime_checkable
class FinishesImages(Protocol):
    """A policy with work to do after each action, which does not count as its latency."""

    def finish_image(self) -> None:
        """Do that work."""
        ...


@dataclass(frozen=True)
class Driver:
    """A driver in a closed-loop evaluation.

    Attributes:
        begin: Returns the policy of an episode from the world, which was just reset, and the episode's seed.
        images_per_step: Images, each with an action, per model step.
    """

    begin: Callable[[World, int], Policy]
    images_per_step: int = 1


@dataclass(frozen=True)
class Episode:
    """How an episode went.

    Attributes:
        seed: Seed of the world and the driver.
        outcome: Reached; stopped in the wrong place; or never stopped.
        steps: Duration in model steps.
        distance: Final distance to the goal, in the world's unit.
        plan_ms: Time of each decision, from the image to the action.
    """

    seed: int
    outcome: Outcome
    steps: float
    distance: float
    plan_ms: tuple[float, ...]


def episode_seeds(seeds: Sequence[int], episodes: int) -> list[int]:
    """Return the seeds of ``episodes`` episodes for each of ``seeds``."""
    return [HELD_OUT_SEED + seed * 1_000_000 + episode for seed in seeds for episode in range(episodes)]


def run_episode(
    world: World, driver: Driver, *, seed: int, step_s: float, watch: Callable[[Image], None] = lambda _: None
) -> Episode:
    """Drive until the policy stops or the steps that the task allows are over.

    Args:
        world: The world.
        driver: The driver.
        seed: Seed of the world and the driver.
        step_s: Duration of a model step.
        watch: Called with each image that the policy sees.
    """
    world.reset(seed)
    task, decide = world.task, driver.begin(world, seed)
    outcome: Outcome = "timeout"
    plan_ms: list[float] = []
    actions = 0
    for _ in range(task.max_steps * driver.images_per_step):
        image = world.render()
        watch(image)
        began = time.perf_counter()
        action = decide(image)
        plan_ms.append((time.perf_counter() - began) * 1e3)
        if isinstance(decide, FinishesImages):
            decide.finish_image()
        if action is None:
            outcome = "reached" if world.distance() <= task.tolerance else "wrong_place"
            break
        world.step(action, step_s / driver.images_per_step)
        actions += 1
    return Episode(seed, outcome, actions / driver.images_per_step, world.distance(), tuple(plan_ms))


def model_driver(
    model: WorldModel, config: ControllerConfig, task: Task, *, propose: Proposer | None = None
) -> Driver:
    """Return the controller of the robot with this model, in a world with this task.

    Args:
        model: The open world model.
        config: Settings of the controller; the episode's seed replaces theirs.
        task: What to do; see :func:`adapted`.
        propose: Policy whose action sequences the search starts from; None: there is none.
    """
    config = adapted(config, model.manifest, task)
    return Driver(
        lambda world, seed: RobotPolicy(model, world, replace(config, seed=seed), propose),
        config.images_per_step,
    )


def adapted(config: ControllerConfig, manifest: Manifest, task: Task) -> ControllerConfig:
    """Return ``config`` adapted to a model and a task.

    The search is reduced to the horizon of the model. Images per model step are reduced to what the ticks of
    the world allow, and to 1 if actions are not rates. The check for frozen images is off if images have no
    sensor noise.
    """
    return replace(
        config.fitted(horizon=manifest.horizon),
        images_per_step=_images_per_step(config.images_per_step, manifest, task),
        frozen_after_s=config.frozen_after_s if task.has_sensor_noise else 0.0,
    )


def straight_line() -> Driver:
    """Return the baseline that drives straight to the known goal and stops by the true distance."""
    return Driver(_straight_line)


def random_actions() -> Driver:
    """Return the baseline that acts at random and stops by the true distance."""
    return Driver(_random_actions)


def baselines(world: World) -> dict[str, Driver]:
    """Return the drivers that need no model, by name."""
    straight = {"straight_line": straight_line()} if isinstance(world, HasStraightLine) else {}
    return straight | {"random": random_actions()}


def _images_per_step(most: int, manifest: Manifest, task: Task) -> int:
    if not manifest.io.action.is_rate:
        return 1
    if task.tick_s is None:
        return most
    ticks = round(manifest.io.step_s / task.tick_s)
    return max(count for count in range(1, most + 1) if ticks % count == 0)


def _straight_line(world: World, _seed: int) -> Policy:
    if not isinstance(world, HasStraightLine):
        raise TypeError(f"{world.task.name}: the world has no straight_line method")
    straight, near = world, world.task.tolerance / 2
    return lambda _image: None if world.distance() < near else straight.straight_line()


def _random_actions(world: World, seed: int) -> Policy:
    # The world draws start and goal from the seed alone.
    rng, task = np.random.default_rng((seed, 1)), world.task
    return lambda _image: None if world.distance() <= task.tolerance else rng.uniform(task.low, task.high)
