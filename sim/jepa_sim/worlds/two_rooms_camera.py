"""The overhead camera of Two Rooms: shaded floor and walls, a robot with a shadow, light, sensor noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds.two_rooms_geometry import ARENA_M, BORDER_M, ROBOT_RADIUS_M, Floats, Layouts

FRAME_PX = 128
NOISE_STD = 4.0
_PX_PER_M = FRAME_PX / ARENA_M
_FLOOR, _WALL, _ROBOT = ((156, 148, 134), (74, 84, 100), (208, 62, 48))
_PATCH = np.arange(-10, 11)
_GRID = np.linspace(-1.0, 1.0, FRAME_PX, dtype=np.float32)

Image = NDArray[np.uint8]
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """Illumination of N images.

    Attributes:
        gain: Brightness [N]; 1 is neutral.
        slope: Change [N, 2] from the center to the right and lower edge; 0 is neutral.
        tint: White balance [N, 3]; 1 is neutral.
    """

    gain: Floats
    slope: Floats
    tint: Floats


def sample_light(rng: np.random.Generator, count: int) -> Light:
    """Return ``count`` independent illuminations: dim to bright, from any side, warm to cold."""
    warmth = rng.uniform(-0.06, 0.06, count)
    return Light(
        rng.uniform(0.75, 1.15, count),
        rng.uniform(-0.15, 0.15, (count, 2)),
        np.stack([1 + warmth, np.ones(count), 1 - warmth], axis=1),
    )


def backgrounds(layouts: Layouts) -> Floats32:
    """Return floor and walls of each layout in neutral light, float32 [N, px, px, 3]."""
    low, high = (np.rint(corner * _PX_PER_M).astype(int) for corner in layouts.segments())
    border = round(BORDER_M * _PX_PER_M)
    rows, columns = np.mgrid[0:FRAME_PX, 0:FRAME_PX]
    planks = 1 + 0.03 * np.sin(rows * 0.8) + 0.02 * ((columns // 16 + rows // 16) % 2)
    images = np.empty((len(layouts), FRAME_PX, FRAME_PX, 3), np.float32)
    for image, corners_low, corners_high in zip(images, low, high, strict=True):
        wall = np.ones((FRAME_PX, FRAME_PX), bool)
        wall[border:-border, border:-border] = False
        for (left, top), (right, bottom) in zip(corners_low, corners_high, strict=True):
            wall[max(top, 0) : bottom, max(left, 0) : right] = True
        shadow = np.zeros_like(wall)
        shadow[3:, 3:] = wall[:-3, :-3]
        image[:] = np.asarray(_FLOOR) * (planks * np.where(shadow, 0.82, 1.0))[..., None]
        image[wall] = _WALL
    return images


class Camera:
    """Renders robots into backgrounds, with sensor noise drawn from ``rng`` in advance."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._noise = (rng.standard_normal(1 << 20) * NOISE_STD).astype(np.float32)

    def render(self, background: Floats32, position: Floats, light: Light) -> Image:
        """Return images uint8 [N, px, px, 3] (RGB).

        Args:
            background: Floor and walls [N, px, px, 3]; not changed.
            position: Centers of the robots [N, 2] in meters.
            light: Illumination.
        """
        frames = background.copy()
        self._draw_robots(frames, position * _PX_PER_M)
        images = np.empty(frames.shape, np.uint8)
        gain, slope, tint = (part.astype(np.float32) for part in (light.gain, light.slope, light.tint))
        pixels = frames[0].size
        starts = self._rng.integers(0, len(self._noise) - pixels, len(frames))
        # One image at a time, as rows of interleaved colors: this stays in the cache and has long inner
        # loops.
        for index, start in enumerate(starts):
            frame = frames[index].reshape(FRAME_PX, -1)
            across = np.repeat(gain[index] * slope[index, 0] * _GRID, 3)
            down = gain[index] * (1 + slope[index, 1] * _GRID)
            frame *= (down[:, None] + across) * np.tile(tint[index], FRAME_PX)
            frame += self._noise[start : start + pixels].reshape(frame.shape)
            images[index] = np.clip(frame, 0, 255, out=frame).reshape(frames.shape[1:])
        return images

    @staticmethod
    def _draw_robots(frames: Floats32, center: Floats) -> None:
        base = np.rint(center).astype(int)
        rows = np.clip(base[:, 1, None] + _PATCH, 0, FRAME_PX - 1)
        columns = np.clip(base[:, 0, None] + _PATCH, 0, FRAME_PX - 1)
        dy = rows[:, :, None] + 0.5 - center[:, 1, None, None]
        dx = columns[:, None, :] + 0.5 - center[:, 0, None, None]
        radius = ROBOT_RADIUS_M * _PX_PER_M
        disc = np.clip(radius + 0.5 - np.hypot(dx, dy), 0, 1)[..., None]
        shade = 0.35 * np.clip((radius + 2 - np.hypot(dx - 2, dy - 2)) / 2, 0, 1)[..., None]
        body = np.asarray(_ROBOT) * (1.1 - 0.03 * (dx + dy))[..., None]
        index = (np.arange(len(frames))[:, None, None], rows[:, :, None], columns[:, None, :])
        patch = frames[index] * (1 - shade)
        frames[index] = patch * (1 - disc) + body * disc
