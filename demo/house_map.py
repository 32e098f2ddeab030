"""A map of a house from above: walls, furniture, doors, a route, and the robot."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.layouts import Layout, Solid
from jepa_sim.worlds.first_person.motion import ROBOT_RADIUS_M

_PAPER, _FLOOR, _WALL, _FURNITURE = (255, 255, 255), (244, 244, 241), (70, 70, 70), (190, 184, 174)
TAUGHT, DRIVEN, GOAL = (150, 150, 160), (42, 120, 214), (235, 140, 30)
ROBOT, DOOR = (20, 60, 140), (200, 40, 40)
# Solids that begin higher than this are above the robot: lintels and pictures.
_ABOVE_M = 0.6
# Drawn larger, then reduced: PIL draws without antialiasing.
_OVERSAMPLING = 3

Color = tuple[int, int, int]


class HouseMap:
    """A map to draw on.

    Args:
        layout: The house.
        size: Width and height in pixels.
    """

    def __init__(self, layout: Layout, size: tuple[int, int]) -> None:
        self._size = size
        width, depth = layout.size
        margin_m = 0.2
        self._scale = _OVERSAMPLING * min(size[0] / (width + 2 * margin_m), size[1] / (depth + 2 * margin_m))
        self._left = (size[0] * _OVERSAMPLING - width * self._scale) / 2
        self._bottom = (size[1] * _OVERSAMPLING + depth * self._scale) / 2
        self._picture = Image.new("RGB", (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING), _PAPER)
        self._draw = ImageDraw.Draw(self._picture)
        self._draw.rectangle([*self._at(0, depth), *self._at(width, 0)], _FLOOR)
        for solids, color in ((layout.walls, _WALL), (layout.furniture, _FURNITURE)):
            for solid in solids:
                if solid.bottom < _ABOVE_M:
                    self._solid(solid, color)

    def copy(self) -> HouseMap:
        """Return a map with the same content, to draw on."""
        copied = copy.copy(self)
        copied._picture = self._picture.copy()
        copied._draw = ImageDraw.Draw(copied._picture)
        return copied

    def path(self, poses: NDArray[np.float64], color: Color, width_px: int = 2) -> None:
        """Draw a path [N, 2 or more]."""
        if len(poses) > 1:
            points = [self._at(x, y) for x, y in poses[:, :2]]
            self._draw.line(points, color, width_px * _OVERSAMPLING, joint="curve")

    def door(self, leaf: Solid) -> None:
        """Draw a closed door, thicker than it is."""
        (x, y), (half_x, half_y) = leaf.center, leaf.half_size
        if half_x > half_y:
            ends = self._at(x - half_x, y), self._at(x + half_x, y)
        else:
            ends = self._at(x, y - half_y), self._at(x, y + half_y)
        self._draw.line(ends, DOOR, 5 * _OVERSAMPLING)

    def marks(self, poses: Sequence[Pose], color: Color, radius_m: float = 0.05) -> None:
        """Draw a point at each pose."""
        for pose in poses:
            self._disc(pose, radius_m, color)

    def arrow(self, pose: Pose, color: Color, length_m: float = 0.45) -> None:
        """Draw a pose as an arrow."""
        x, y, heading = pose
        tip = x + length_m * math.cos(heading), y + length_m * math.sin(heading)
        self._draw.line([self._at(x, y), self._at(*tip)], color, 2 * _OVERSAMPLING)
        self._disc(np.array([*tip, 0.0]), 0.09, color)
        self._disc(pose, 0.06, color)

    def robot(self, pose: Pose) -> None:
        """Draw the robot, with a line in its direction."""
        self._disc(pose, ROBOT_RADIUS_M, ROBOT)
        x, y, heading = pose
        nose = x + ROBOT_RADIUS_M * math.cos(heading), y + ROBOT_RADIUS_M * math.sin(heading)
        self._draw.line([self._at(x, y), self._at(*nose)], (255, 255, 255), 2 * _OVERSAMPLING)

    def picture(self) -> Image.Image:
        """Return the frame."""
        return self._picture.resize(self._size, Image.Resampling.LANCZOS)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._left + x * self._scale, self._bottom - y * self._scale

    def _solid(self, solid: Solid, color: Color) -> None:
        x, y = solid.center
        half_x, half_y = solid.half_size
        if solid.is_round:
            self._draw.ellipse([*self._at(x - half_x, y + half_x), *self._at(x + half_x, y - half_x)], color)
            return
        cos, sin = math.cos(solid.heading), math.sin(solid.heading)
        corners = ((half_x, half_y), (half_x, -half_y), (-half_x, -half_y), (-half_x, half_y))
        self._draw.polygon(
            [self._at(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in corners], color
        )

    def _disc(self, pose: Pose, radius_m: float, color: Color) -> None:
        x, y = pose[:2]
        self._draw.ellipse(
            [*self._at(x - radius_m, y + radius_m), *self._at(x + radius_m, y - radius_m)], color
        )
