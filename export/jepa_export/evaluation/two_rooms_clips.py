"""Clips of Two Rooms with layouts that no training uses, and impossible events in them.

In these events the robot is suddenly elsewhere, or the wall is suddenly gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_export.data.two_rooms_recordings import wander
from jepa_export.evaluation.clips import Clips, clips_of, frames_read
from jepa_runtime.bundle import Manifest
from jepa_runtime.imaging import Image, resize_into
from jepa_runtime.sources import Floats
from jepa_sim.closed_loop.episodes import HELD_OUT_SEED
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_camera import backgrounds
from jepa_sim.worlds.two_rooms_geometry import LayoutKind, Layouts, sample_positions

ACTIONS = (("linear.x", "linear.y"), ("m/s", "m/s"))
# Two steps at top speed: no robot gets there in one step.
TELEPORT_M = 0.5
# Separates these worlds from those in which episodes are driven.
_PURPOSE = 500_000_000


@dataclass(frozen=True)
class Scenes:
    """n histories of W frames with an action, its normal outcome, and impossible outcomes.

    Attributes:
        past: uint8 [n, W, h, w, 3].
        actions: float32 [n, W, A], executed from each of these frames until the next.
        outcomes: Images by name (``normal`` first), uint8 [n, h, w, 3] each, in the same light.
    """

    past: Image
    actions: Floats
    outcomes: dict[str, Image]


def drives(manifest: Manifest) -> bool:
    """Return whether the model drives the robot in Two Rooms: it has its actions, and reads single images."""
    io = manifest.io
    return io.clip is None and io.state is None and (io.action.names, io.action.units) == ACTIONS


def draw(manifest: Manifest, *, layout: LayoutKind, count: int, seed: int) -> tuple[Clips, Scenes]:
    """Return ``count`` clips, and the scenes at their beginning; ``random``: each with another layout.

    For a model with other actions, the clips have no actions, and the scenes are meaningless.
    """
    size, interval_s = manifest.history_size, manifest.io.frame_interval_s
    length = frames_read(manifest, size + manifest.horizon)
    rng = np.random.default_rng((HELD_OUT_SEED, _PURPOSE, seed))
    world = _Rooms(layout=layout, seed=HELD_OUT_SEED + _PURPOSE + seed)
    velocities = wander(rng, count, length)
    shape = manifest.io.frame.height, manifest.io.frame.width, 3
    frames = np.empty((count, length, *shape), np.uint8)
    outcomes = {event: np.empty((count, *shape), np.uint8) for event in ("teleport", "wall removed")}
    for index in range(count):
        world.reset()
        for step in range(length):
            resize_into(world.render(), frames[index, step])
            if step == size:
                resize_into(world.render_elsewhere(rng), outcomes["teleport"][index])
                resize_into(world.render_without_wall(), outcomes["wall removed"][index])
            world.step(velocities[index, step], interval_s)
    actions = velocities.astype(np.float32)
    name = f"Two Rooms, {layout} layouts never trained on"
    clips = clips_of(name, frames, actions if drives(manifest) else None, manifest, seed)
    return clips, Scenes(frames[:, :size], actions[:, :size], {"normal": frames[:, size], **outcomes})


class _Rooms(TwoRooms):
    """Two Rooms that can render an impossible frame."""

    def render_elsewhere(self, rng: np.random.Generator) -> Image:
        """Render the robot at a random position at least :data:`TELEPORT_M` away."""
        there = here = self._position
        while np.linalg.norm(there - here) < TELEPORT_M:
            there = sample_positions(rng, self.layouts)
        frame: Image = self._camera.render(self._background, there, self._light_now())[0]
        return frame

    def render_without_wall(self) -> Image:
        """Render the rooms without the wall between them."""
        rooms = self.layouts
        # Centered on the edge of the arena, the wall is hidden by the border.
        bare = backgrounds(Layouts(rooms.axis, np.zeros_like(rooms.wall), rooms.door))
        frame: Image = self._camera.render(bare, self._position, self._light_now())[0]
        return frame
