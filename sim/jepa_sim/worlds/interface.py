"""What a closed loop needs of a simulated world: a task, a camera, and an end that can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.util.units import normalize_unit

Image = NDArray[np.uint8]
Actions = NDArray[np.floating]
# Of a step's length: what is left of a division of decimal numbers.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done in a world.

    Attributes:
        name: for people: the world, and what varies from episode to episode.
        action_names, action_units: of the A components, as the bundles that fit name them.
        low, high: [A], the least and the greatest action; others count as the nearest of these.
        tolerance: distance at which the goal is reached.
        unit: of distances.
        max_steps: decisions, after which an episode has failed.
        tick_s: an action is held for whole multiples of this; None: for any time.

    Raises:
        ValueError: names, units and limits are not as many.
    """

    name: str
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    tolerance: float
    unit: str
    max_steps: int
    tick_s: float | None = None

    def __post_init__(self) -> None:
        sizes = [len(part) for part in (self.action_names, self.action_units, self.low, self.high)]
        if len(set(sizes)) != 1:
            raise ValueError(
                "action_names, action_units, low and high must have a value for each component of an action, "
                f"got {', '.join(map(str, sizes))}"
            )

    def misfit(self, manifest: Manifest) -> str | None:
        """Why a model cannot act here; None: it can."""
        action, step_s = manifest.io.action, manifest.io.step_s
        same = list(map(normalize_unit, action.units)) == list(map(normalize_unit, self.action_units))
        if action.names != self.action_names or not same:
            theirs, ours = _named(action.names, action.units), _named(self.action_names, self.action_units)
            return f"its actions are {theirs}, there they are {ours}"
        for name, low, high, least, greatest in zip(
            action.names, action.low, action.high, self.low, self.high, strict=True
        ):
            if low < least or high > greatest:
                return f"its {name} goes from {low:g} to {high:g}, there from {least:g} to {greatest:g}"
        if self.tick_s is not None and abs(step_s / self.tick_s - round(step_s / self.tick_s)) > _ROUNDING:
            return f"it holds an action for {step_s:g} s, there time goes on by {self.tick_s:g} s"
        return None


@runtime_checkable
class World(Protocol):
    """One robot, one camera, one goal at a time. Everything that happens follows from the seed of the last
    ``reset`` and the actions since."""

    @property
    def task(self) -> Task:
        """What is to be done here."""
        ...

    def reset(self, seed: int) -> None:
        """Begin an episode: a start, and a goal elsewhere."""
        ...

    def render(self) -> Image:
        """What the camera sees now: uint8 [h, w, 3] RGB."""
        ...

    def render_goal(self) -> Image:
        """What the camera would see at the goal: uint8 [h, w, 3] RGB."""
        ...

    def step(self, action: Actions, dt_s: float, /) -> None:
        """Hold ``action`` [A] for ``dt_s`` seconds."""
        ...

    def distance(self) -> float:
        """How far the goal truly is."""
        ...

    def close(self) -> None:
        """Give back what is held open."""
        ...


@runtime_checkable
class HasStraightLine(Protocol):
    """A world in which one can go straight at the goal: a baseline that no model is needed for."""

    def straight_line(self) -> Actions:
        """The action [A] of one who knows where robot and goal are, and nothing of what lies between."""
        ...


def _named(names: tuple[str, ...], units: tuple[str, ...]) -> str:
    return ", ".join(f"{name} [{unit}]" for name, unit in zip(names, units, strict=True))
