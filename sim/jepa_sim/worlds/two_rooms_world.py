"""Two Rooms: a mobile base in two rooms joined by a door, seen by an overhead camera.

A harder version of the two-room world of eb_jepa and PLDM: RGB images with shading, sensor noise and changing
light, a robot that slides along walls, and a wall and a door at any position.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds.interface import Task
from jepa_sim.worlds.two_rooms_camera import Camera, Image, Light, backgrounds, sample_light
from jepa_sim.worlds.two_rooms_geometry import (
    ARENA_M,
    MAX_SPEED_MPS,
    Floats,
    LayoutKind,
    Layouts,
    drive,
    sample_layouts,
    sample_positions,
)

__all__ = ["ARENA_M", "MAX_SPEED_MPS", "TwoRooms"]

MAX_STEPS = 80
# Time in which the straight-line action would reach the goal without a speed limit.
_STRAIGHT_S = 0.2


class TwoRooms:
    """Two Rooms as a :class:`jepa_sim.worlds.interface.World`.

    Args:
        layout: ``random`` (wall, orientation and door anywhere, new in each episode) or ``fixed``.
        seed: Seed of layouts, starts, goals, light and noise.
    """

    tolerance_m = 0.2

    def __init__(self, *, layout: LayoutKind = "random", seed: int) -> None:
        self.layout_name: LayoutKind = layout
        self.reset(seed)

    @property
    def task(self) -> Task:
        """Drive from one room into the other."""
        return Task(
            name=f"Two Rooms, {self.layout_name} layout, start and goal in different rooms",
            action_names=("linear.x", "linear.y"),
            action_units=("m/s", "m/s"),
            low=(-MAX_SPEED_MPS, -MAX_SPEED_MPS),
            high=(MAX_SPEED_MPS, MAX_SPEED_MPS),
            tolerance=self.tolerance_m,
            unit="m",
            max_steps=MAX_STEPS,
            has_sensor_noise=True,
        )

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode with a new layout (if random), and a start and a goal in different rooms.

        Args:
            seed: Restart the random numbers from this seed; None: continue them.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            self._camera = Camera(self._rng)
        self.layouts: Layouts = sample_layouts(self._rng, 1, self.layout_name)
        self._background = backgrounds(self.layouts)
        self._position = sample_positions(self._rng, self.layouts)
        self.move_goal()
        self._light = sample_light(self._rng, 1)
        self._drift = self._rng.uniform(0, 2 * np.pi, 2), self._rng.uniform(4.0, 20.0, 2)
        self.time_s = 0.0

    def move_goal(self) -> None:
        """Move the goal to a random position in the other room."""
        self._goal = self._position
        while (self.layouts.side(self._goal) == self.layouts.side(self._position)).all():
            self._goal = sample_positions(self._rng, self.layouts)

    def close(self) -> None:
        """Release nothing."""

    @property
    def position(self) -> Floats:
        """Center of the robot [x, y] in meters."""
        position: Floats = self._position[0].copy()
        return position

    @property
    def goal(self) -> Floats:
        """Goal [x, y] in meters."""
        goal: Floats = self._goal[0].copy()
        return goal

    def step(self, velocity: NDArray[np.floating], dt_s: float) -> None:
        """Hold ``velocity`` [x, y] in m/s, limited to :data:`MAX_SPEED_MPS`, for ``dt_s`` seconds."""
        self._position = drive(self.layouts, self._position, np.asarray(velocity, float)[None], dt_s)
        self.time_s += dt_s

    def distance(self) -> float:
        """Return the straight distance to the goal in meters."""
        return float(np.linalg.norm(self._position - self._goal))

    def reached(self) -> bool:
        """Return whether the robot is truly within :attr:`tolerance_m` of its goal."""
        return self.distance() <= self.tolerance_m

    def straight_line(self) -> Floats:
        """Return the velocity [x, y] in m/s straight to the goal, through walls."""
        velocity: Floats = (self.goal - self.position) / _STRAIGHT_S
        return velocity

    def render(self) -> Image:
        """Return the camera image, uint8 [128, 128, 3] RGB."""
        frame: Image = self._camera.render(self._background, self._position, self._light_now())[0]
        return frame

    def render_goal(self) -> Image:
        """Return the image of the robot at the goal, in another light, uint8 [128, 128, 3] RGB."""
        frame: Image = self._camera.render(self._background, self._goal, sample_light(self._rng, 1))[0]
        return frame

    def _light_now(self) -> Light:
        phase, period_s = self._drift
        swing = np.sin(2 * np.pi * self.time_s / period_s + phase)
        return Light(
            np.clip(self._light.gain * (1 + 0.06 * swing[0]), 0.75, 1.15),
            np.clip(self._light.slope + 0.04 * swing[1], -0.15, 0.15),
            self._light.tint,
        )


def random_layouts() -> TwoRooms:
    """Create the world ``two_rooms``."""
    return TwoRooms(layout="random", seed=0)


def fixed_layout() -> TwoRooms:
    """Create the world ``two_rooms_fixed``."""
    return TwoRooms(layout="fixed", seed=0)
