"""Recordings of Two Rooms, rendered on the fly: robots that wander or press on, seen by the overhead camera.

Everything follows from one integer, so a resumed training run gets the same data. Held-out evaluation uses
:class:`jepa_sim.worlds.TwoRooms` with seeds that are never used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds.two_rooms_camera import Camera, Image, Light, backgrounds, sample_light
from jepa_sim.worlds.two_rooms_geometry import (
    ARENA_M,
    BORDER_M,
    MAX_SPEED_MPS,
    ROBOT_RADIUS_M,
    Floats,
    LayoutKind,
    Layouts,
    drive,
    sample_layouts,
    sample_positions,
)

STEP_S = 0.2
_ARRIVED_M = 0.2
_WILL = 1


@dataclass(frozen=True)
class Recordings:
    """G layouts with M trajectories of T frames each.

    Attributes:
        frames: uint8 [G, M, T, 128, 128, 3].
        actions: float32 [G, M, T-1, 2], each held for :data:`STEP_S`.
        positions: float32 [G, M, T, 2] (m), for evaluation only: no loss uses them.
        layouts: Layouts of Two Rooms, for evaluation only.
        joints: Joint angles of the robot, float32 [G, M, T, J] (rad), which its own encoders measure.
    """

    frames: Image
    actions: NDArray[np.float32]
    positions: NDArray[np.float32]
    layouts: Layouts | None = None
    joints: NDArray[np.float32] | None = None


def wander(rng: np.random.Generator, count: int, steps: int, top_speed: float = MAX_SPEED_MPS) -> Floats:
    """Return exploring velocities [count, steps, 2], uniform over the disc, with persistent headings."""

    def speeds() -> Floats:
        return top_speed * np.sqrt(rng.uniform(0, 1, count))

    heading, speed = rng.uniform(0, 2 * np.pi, count), speeds()
    velocities = np.empty((count, steps, 2))
    for step in range(steps):
        velocities[:, step] = np.stack([np.cos(heading), np.sin(heading)], axis=1) * speed[:, None]
        new_heading = rng.uniform(0, 2 * np.pi, count)
        heading = np.where(rng.uniform(0, 1, count) < 0.15, new_heading, heading + rng.normal(0, 0.5, count))
        speed = np.where(rng.uniform(0, 1, count) < 0.3, speeds(), speed)
    return velocities


def _beyond(rng: np.random.Generator, rooms: Layouts, position: Floats) -> Floats:
    """Return positions [N, 2] in the other room, as far from the door as a planner misjudges it."""
    rows, across = np.arange(len(rooms)), np.where(rooms.side(position), -1, 1)
    place = np.empty((len(rooms), 2))
    place[rows, rooms.axis] = rooms.wall + across * rng.uniform(0.2, 0.8, len(rooms))
    place[rows, 1 - rooms.axis] = rooms.door + rng.normal(0, 0.3, len(rooms))
    edge = BORDER_M + ROBOT_RADIUS_M
    return np.clip(place, edge, ARENA_M - edge)


def _towards(rng: np.random.Generator, place: Floats, position: Floats) -> Floats:
    """Return velocities [N, 2] straight to ``place``, through any wall; about as steady as a planner's."""
    ahead = place - position
    heading = np.arctan2(ahead[:, 1], ahead[:, 0]) + rng.normal(0, 0.4, len(ahead))
    speed = MAX_SPEED_MPS * rng.uniform(0.5, 1, len(ahead))
    velocity: Floats = np.stack([np.cos(heading), np.sin(heading)], axis=1) * speed[:, None]
    return velocity


def record(
    seed: Sequence[int],
    *,
    layouts: int,
    trajectories: int,
    frames: int,
    kind: LayoutKind,
    steady_light: float = 0.6,
    standing: bool = False,
    pressing: float = 0.0,
) -> Recordings:
    """Record trajectories.

    A proportion ``pressing`` of the robots drives towards the other room, through the door or into the wall
    next to it, as a robot does whose model misjudges the door; the others wander, or do not move if
    ``standing``. In a proportion ``steady_light`` of the trajectories the light is constant; in the others it
    changes with each frame, which teaches the encoder to ignore it.
    """
    rng = np.random.default_rng(seed)
    drawn = sample_layouts(rng, layouts, kind)
    background = backgrounds(drawn).repeat(trajectories, axis=0)
    rooms = drawn.repeat(trajectories)
    count, camera = len(rooms), Camera(rng)
    position, actions = sample_positions(rng, rooms), wander(rng, count, frames - 1) * (not standing)
    images = np.empty((count, frames, *background.shape[1:]), np.uint8)
    positions = np.empty((count, frames, 2), np.float32)
    first, steady = sample_light(rng, count), rng.uniform(0, 1, count) < steady_light
    # A separate generator: the wandering robots are the same for any proportion that presses.
    will = np.random.default_rng((*seed, _WILL))
    presses, place = will.uniform(0, 1, count) < pressing, _beyond(will, rooms, position)
    for index in range(frames):
        light = _mixed(steady, first, sample_light(rng, count))
        images[:, index], positions[:, index] = camera.render(background, position, light), position
        if index < frames - 1:
            arrived = np.linalg.norm(place - position, axis=1) < _ARRIVED_M
            place = np.where(arrived[:, None], _beyond(will, rooms, position), place)
            ahead = _towards(will, place, position)
            actions[:, index] = np.where(presses[:, None], ahead, actions[:, index])
            position = drive(rooms, position, actions[:, index], STEP_S)
    shape = (layouts, trajectories)
    return Recordings(
        images.reshape(*shape, *images.shape[1:]),
        actions.astype(np.float32).reshape(*shape, frames - 1, 2),
        positions.reshape(*shape, frames, 2),
        drawn,
    )


def _mixed(steady: NDArray[np.bool_], first: Light, fresh: Light) -> Light:
    return Light(
        np.where(steady, first.gain, fresh.gain),
        np.where(steady[:, None], first.slope, fresh.slope),
        np.where(steady[:, None], first.tint, fresh.tint),
    )
