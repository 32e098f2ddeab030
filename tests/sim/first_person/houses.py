"""Layouts for tests: one or two plain rooms, with colors that are easy to distinguish."""

from __future__ import annotations

import dataclasses

import numpy as np

from jepa_sim.worlds.first_person.layouts import (
    HALF_WALL_M,
    ROOM_HEIGHT_M,
    Door,
    Layout,
    Light,
    PackedLayouts,
    Point,
    Room,
    Solid,
    pack,
)

SIZE_M = 4.0


def light(brightness: float) -> Light:
    """Return a light without a position: every surface has this brightness."""
    return Light((0.0, 0.0), 0.0, brightness, (1.0, 1.0, 1.0))


def box(center: Point, half_size: Point, *, bottom: float = 0.0, top: float = ROOM_HEIGHT_M) -> Solid:
    return Solid(
        center=center,
        half_size=half_size,
        bottom=bottom,
        top=top,
        texture=0,
        texture_size=1.0,
        is_round=False,
    )


def walls(size_x: float, size_y: float) -> list[Solid]:
    """Return the outer walls."""
    along_x, along_y = (size_x / 2 + HALF_WALL_M, HALF_WALL_M), (HALF_WALL_M, size_y / 2 + HALF_WALL_M)
    ends = [((size_x / 2, y), along_x) for y in (0.0, size_y)]
    return [box(*end) for end in (*ends, *(((x, size_y / 2), along_y) for x in (0.0, size_x)))]


def one_room(*furniture: Solid) -> Layout:
    """Return a square room of 4 m."""
    room = Room((0.0, SIZE_M), (0.0, SIZE_M), 1, 2, light(1.0))
    edges = (0.0, SIZE_M)
    return Layout(edges, edges, (room,), (), tuple(walls(SIZE_M, SIZE_M)), (), furniture)


def two_rooms(*, door: bool) -> Layout:
    """Return two rooms next to each other, the second one dark, with a door in the middle of their wall."""
    between = [box((SIZE_M, SIZE_M / 2), (HALF_WALL_M, SIZE_M / 2))]
    if door:
        side = (SIZE_M - 1.0) / 4
        between = [box((SIZE_M, y), (HALF_WALL_M, side)) for y in (side, SIZE_M - side)]
        between.append(box((SIZE_M, SIZE_M / 2), (HALF_WALL_M, 0.5), bottom=2.05))
    bright = Room((0.0, SIZE_M), (0.0, SIZE_M), 1, 2, light(1.0))
    dark = dataclasses.replace(bright, x=(SIZE_M, 2 * SIZE_M), light=light(0.1))
    doors = (Door((0, 1), (SIZE_M, SIZE_M / 2), 1.0, True),) if door else ()
    return Layout(
        (0.0, SIZE_M, 2 * SIZE_M), (0.0, SIZE_M), (bright, dark), doors,
        (*walls(2 * SIZE_M, SIZE_M), *between), (), (),
    )  # fmt: skip


def packed(layout: Layout) -> PackedLayouts:
    return pack([layout])


def pose(x: float, y: float, heading: float = 0.0) -> np.ndarray:
    return np.array([x, y, heading])
