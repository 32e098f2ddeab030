"""A minimal world: a robot on an open floor, whose camera image has one color."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jepa_sim.worlds.interface import Actions, Image, Task

DISTANCE_M = 1.0


class Plane:
    """The goal is one meter away, in a direction given by the seed."""

    def __init__(self, *, max_steps: int = 5, tick_s: float | None = None) -> None:
        self.task = Task(
            name="an open floor",
            action_names=("linear.x", "linear.y"),
            action_units=("m/s", "m/s"),
            low=(-1.25, -1.25),
            high=(1.25, 1.25),
            tolerance=0.1,
            unit="m",
            max_steps=max_steps,
            tick_s=tick_s,
        )
        self.closed = False
        self.resets: list[int] = []
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.resets.append(seed)
        angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
        self.position, self.goal = np.zeros(2), DISTANCE_M * np.array([np.cos(angle), np.sin(angle)])

    def render(self) -> Image:
        return self._seen(self.position)

    def render_goal(self) -> Image:
        return self._seen(self.goal)

    def step(self, action: Actions, dt_s: float) -> None:
        self.position = self.position + np.asarray(action) * dt_s

    def distance(self) -> float:
        return float(np.linalg.norm(self.goal - self.position))

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _seen(position: np.ndarray) -> Image:
        color = np.clip(128 + 50 * np.append(position, 0.0), 0, 255).astype(np.uint8)
        return np.tile(color, (8, 8, 1))


class MappedPlane(Plane):
    """The same with a straight line to the goal."""

    def straight_line(self) -> Actions:
        return (self.goal - self.position) / 0.4


def broken() -> str:
    """Return something that is not a world."""
    return "no world"


def uneven() -> Plane:
    """Raise, because a limit is missing."""
    world = Plane()
    world.task = replace(world.task, low=(-1.25,))
    return world


def idle() -> Plane:
    """Return a world without a task."""
    world = Plane()
    vars(world)["task"] = None
    return world
