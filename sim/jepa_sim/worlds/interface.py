"""Interface of a simulated world: a task, a camera, and a goal that can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.util import Pose, normalize_unit

Image = NDArray[np.uint8]
Actions = NDArray[np.floating]
# Tolerance of the ratio of a step and a tick, which are decimal numbers.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Task:
    """The task in a world.

    Attributes:
        name: Name for people: the world, and what varies from episode to episode.
        action_names: Names of the A action components, as in the manifests of matching bundles.
        action_units: Their units.
        low: Lower action limits [A]; actions are clipped to them.
        high: Upper action limits [A].
        tolerance: Distance at which the goal is reached.
        unit: Unit of distances.
        max_steps: Model steps after which an episode has failed.
        tick_s: An action is held for a multiple of this; None: for any time.
        has_sensor_noise: Two images of the camera are never exactly equal. Otherwise the safety check for
            frozen images is off.

    Raises:
        ValueError: Names, units and limits differ in number.
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
    has_sensor_noise: bool = False

    def __post_init__(self) -> None:
        sizes = [len(part) for part in (self.action_names, self.action_units, self.low, self.high)]
        if len(set(sizes)) != 1:
            raise ValueError(
                "action_names, action_units, low and high must have a value for each action component, got "
                f"{', '.join(map(str, sizes))} values"
            )

    @property
    def has_rates(self) -> bool:
        """Whether all actions are rates, by their units: half for twice as long has the same path."""
        return all(unit.endswith("/s") for unit in self.action_units)

    def mismatch(self, manifest: Manifest) -> str | None:
        """Return why a model cannot act here, or None if it can."""
        action, step_s = manifest.io.action, manifest.io.step_s
        same_units = list(map(normalize_unit, action.units)) == list(map(normalize_unit, self.action_units))
        if action.names != self.action_names or not same_units:
            model, world = _named(action.names, action.units), _named(self.action_names, self.action_units)
            return f"the model's actions are {model}, the world's are {world}"
        for name, low, high, world_low, world_high in zip(
            action.names, action.low, action.high, self.low, self.high, strict=True
        ):
            if low < world_low or high > world_high:
                return (
                    f"the model's {name} ranges from {low:g} to {high:g}, the world's from {world_low:g} to "
                    f"{world_high:g}"
                )
        if manifest.io.state is not None:
            names = ", ".join(manifest.io.state.names)
            return f"the model reads the measured state of the robot ({names}), which worlds do not report"
        if self.tick_s is not None and abs(step_s / self.tick_s - round(step_s / self.tick_s)) > _ROUNDING:
            return (
                f"the model's step of {step_s:g} s is not a multiple of the world's tick of {self.tick_s:g} s"
            )
        return None


@runtime_checkable
class World(Protocol):
    """One robot, one camera, one goal at a time.

    Everything that happens follows from the seed of the last ``reset`` and the actions since.
    """

    @property
    def task(self) -> Task:
        """The task."""
        ...

    def reset(self, seed: int) -> None:
        """Begin an episode with a new start and goal."""
        ...

    def render(self) -> Image:
        """Return the camera image, uint8 [h, w, 3] RGB."""
        ...

    def render_goal(self) -> Image:
        """Return the image that the camera would see at the goal, uint8 [h, w, 3] RGB."""
        ...

    def step(self, action: Actions, dt_s: float, /) -> None:
        """Hold ``action`` [A] for ``dt_s`` seconds."""
        ...

    def distance(self) -> float:
        """Return the true distance to the goal."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


@runtime_checkable
class HasStraightLine(Protocol):
    """A world in which a baseline can drive straight to the goal."""

    def straight_line(self) -> Actions:
        """Return the action [A] straight to the goal, whatever lies between."""
        ...


@runtime_checkable
class HasOdometry(Protocol):
    """A world whose robot measures its own motion."""

    def read_odometry(self) -> Pose:
        """Return x, y and heading [3] from any origin, as the robot measures them."""
        ...


def _named(names: tuple[str, ...], units: tuple[str, ...]) -> str:
    return ", ".join(f"{name} [{unit}]" for name, unit in zip(names, units, strict=True))
