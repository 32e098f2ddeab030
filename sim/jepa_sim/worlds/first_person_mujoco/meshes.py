"""Meshes of what a house shows: rectangles with textures, cut small because MuJoCo lights their corners."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Longest side of a rectangle that is lit at its corners only.
_CELL_M = 0.5
_SIDES = 24

Floats = NDArray[np.float64]
# What a texture covers, and its number.
Look = tuple[str, int]


@dataclass(frozen=True)
class Mesh:
    """A mesh.

    Attributes:
        vertices: Corners [N, 3].
        normals: Their normals [N, 3].
        texture_coordinates: Their texture coordinates [N, 2].
        faces: Triangles, counterclockwise from outside [M, 3].
    """

    vertices: Floats
    normals: Floats
    texture_coordinates: Floats
    faces: NDArray[np.int64]


class Surfaces:
    """Meshes by look."""

    def __init__(self) -> None:
        self._parts: dict[Look, list[Mesh]] = defaultdict(list)

    def meshes(self) -> Iterator[tuple[Look, Mesh]]:
        """Return one mesh for each look."""
        for look, parts in self._parts.items():
            first = np.cumsum([0, *(len(part.vertices) for part in parts)])
            yield (
                look,
                Mesh(
                    np.concatenate([part.vertices for part in parts]),
                    np.concatenate([part.normals for part in parts]),
                    np.concatenate([part.texture_coordinates for part in parts]),
                    np.concatenate([part.faces + index for part, index in zip(parts, first, strict=False)]),
                ),
            )

    def add_rectangle(
        self, look: Look, corner: Floats, u: Floats, v: Floats, texture_size: float | None
    ) -> None:
        """Add a rectangle, which is seen from where ``u`` turns counterclockwise into ``v``.

        Args:
            look: How it looks.
            corner: Its corner [3].
            u: Side along which the texture runs to the right [3].
            v: Side along which it runs upwards [3].
            texture_size: Side of one repetition of the texture, which begins at the origin of the house so
                that rectangles in one plane fit; None: the texture fills the rectangle once.
        """
        length_u, length_v = float(np.linalg.norm(u)), float(np.linalg.norm(v))
        columns, rows = math.ceil(length_u / _CELL_M), math.ceil(length_v / _CELL_M)
        s, t = (
            part.ravel() for part in np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
        )
        vertices = corner + s[:, None] * u + t[:, None] * v
        if texture_size is None:
            coordinates = np.stack([s, t], axis=1)
        else:
            coordinates = np.stack([vertices @ u / length_u, vertices @ v / length_v], axis=1) / texture_size
        self._parts[look].append(_grid(vertices, np.cross(u, v), coordinates, columns, rows))

    def add_box(
        self,
        look: Look,
        center: Floats,
        half_size: Floats,
        heading: float = 0.0,
        *,
        texture_size: float | None,
    ) -> None:
        """Add a box; its lower side is left out where it stands on the floor.

        Args:
            look: How it looks.
            center: Its center [3].
            half_size: Half its sides [3] before it is turned.
            heading: Angle by which it is turned.
            texture_size: As of :meth:`add_rectangle`.
        """
        ahead = 2 * half_size[0] * np.array([math.cos(heading), math.sin(heading), 0.0])
        left = 2 * half_size[1] * np.array([-math.sin(heading), math.cos(heading), 0.0])
        up = np.array([0.0, 0.0, 2 * half_size[2]])
        low = center - (ahead + left + up) / 2
        sides = [
            (low, ahead, up),
            (low + ahead, left, up),
            (low + ahead + left, -ahead, up),
            (low + left, -left, up),
            (low + up, ahead, left),
        ]
        if low[2] > 1e-6:
            sides.append((low, left, ahead))
        for corner, u, v in sides:
            self.add_rectangle(look, corner, u, v, texture_size)

    def add_cylinder(
        self, look: Look, center: Floats, radius: float, height: float, *, texture_size: float
    ) -> None:
        """Add an upright cylinder without its lower side.

        Args:
            look: How it looks.
            center: Center of its lower side [3].
            radius: Its radius.
            height: Its height.
            texture_size: Side of one repetition of the texture.
        """
        angles = np.linspace(0, 2 * math.pi, _SIDES + 1)
        around = np.stack([np.cos(angles), np.sin(angles), np.zeros(_SIDES + 1)], axis=1)
        rows = math.ceil(height / _CELL_M)
        heights = np.linspace(0, height, rows + 1)
        vertices = (
            center + radius * around[None] + heights[:, None, None] * np.array([0.0, 0.0, 1.0])
        ).reshape(-1, 3)
        coordinates = np.stack([np.tile(angles * radius, rows + 1), np.repeat(heights, _SIDES + 1)], axis=1)
        normals = np.tile(around, (rows + 1, 1))
        self._parts[look].append(_grid(vertices, normals, coordinates / texture_size, _SIDES, rows))
        top = center + np.array([0.0, 0.0, height])
        rim = top + radius * around[:-1]
        following = np.roll(np.arange(_SIDES), -1)
        self._parts[look].append(
            Mesh(
                np.concatenate([rim, top[None]]),
                np.tile([0.0, 0.0, 1.0], (_SIDES + 1, 1)),
                np.concatenate([rim, top[None]])[:, :2] / texture_size,
                np.stack([np.arange(_SIDES), following, np.full(_SIDES, _SIDES)], axis=1),
            )
        )


def _grid(vertices: Floats, normals: Floats, coordinates: Floats, columns: int, rows: int) -> Mesh:
    """Return a mesh of ``columns`` x ``rows`` cells, whose corners are given row by row."""
    cells = np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)[None]
    first = cells.ravel()
    second, third, fourth = first + 1, first + columns + 2, first + columns + 1
    faces = np.concatenate([np.stack([first, second, third], 1), np.stack([first, third, fourth], 1)])
    normals = np.broadcast_to(normals / np.linalg.norm(normals, axis=-1, keepdims=True), vertices.shape)
    return Mesh(vertices, normals, coordinates, faces)
