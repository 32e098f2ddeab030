"""Recordings of Two Rooms that are rendered when they are read, and not stored."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.two_rooms_recordings import STEP_S, record
from jepa_runtime.imaging import Image, resize_into
from jepa_runtime.sources import Commands, Floats, Stamps
from jepa_sim.worlds.two_rooms_geometry import LayoutKind

# Separates these seeds from those of the demo's own training.
_PURPOSE = 7
_NAMES, _UNITS = ("linear.x", "linear.y"), ("m/s", "m/s")
_STEP_NS = round(STEP_S * 1e9)


class SimulatedRecording:
    """One trajectory through its own layout, with a frame every :data:`STEP_S` seconds.

    Args:
        seed: Seed of the data set.
        index: Number of the trajectory; what happens follows from both.
        frames: Number of frames.
        layout: Layout of the rooms.
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
    """

    def __init__(
        self, seed: int, index: int, *, frames: int, layout: LayoutKind, height: int, width: int
    ) -> None:
        self.name = f"two_rooms (seed {seed}, {layout} layout, trajectory {index})"
        self.identity = hashlib.sha256(f"{self.name} {frames}".encode()).hexdigest()
        self.key = f"{self.identity} {height} {width}"
        self.height, self.width, self.rate_hz = height, width, 1 / STEP_S
        self.stamps_ns: Stamps = np.arange(frames, dtype=np.int64) * _STEP_NS
        self.episodes = np.zeros(frames, np.int32)
        self.action_names: tuple[str, ...] | None = _NAMES
        self.action_units: tuple[str, ...] | None = _UNITS
        self.known = np.ones(frames, bool)
        self._arguments = (seed, index, frames, layout)

    def frames(self, rows: NDArray[np.integer]) -> Image:
        rendered = _render(*self._arguments)[0][rows]
        frames = np.empty((len(rows), self.height, self.width, 3), np.uint8)
        for image, frame in zip(rendered, frames, strict=True):
            resize_into(image, frame)
        return frames

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        return _commands(*self._arguments).mean(starts_ns, ends_ns)


@lru_cache(maxsize=10_000)
def _commands(seed: int, index: int, frames: int, layout: LayoutKind) -> Commands:
    # Cached separately, as they are small and read for all recordings repeatedly: no frame is rendered twice
    # for them.
    return _render(seed, index, frames, layout)[1]


@lru_cache(maxsize=32)
def _render(seed: int, index: int, frames: int, layout: LayoutKind) -> tuple[Image, Commands]:
    # One frame more, so that the last one has an action, too.
    rendered = record((seed, _PURPOSE, index), layouts=1, trajectories=1, frames=frames + 1, kind=layout)
    stamps = np.arange(frames, dtype=np.int64) * _STEP_NS
    return rendered.frames[0, 0, :frames], Commands(_NAMES, _UNITS, stamps, rendered.actions[0, 0])
