"""Two Rooms as clips of layouts that no training draws, and in them what cannot be: a robot that is suddenly
elsewhere, a wall that is suddenly gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_export.data.two_rooms_recordings import wander
from jepa_export.evaluation.clips import Clips, clips_of
from jepa_runtime.bundle import Manifest
from jepa_runtime.imaging.conversion import Image, resize_into
from jepa_runtime.sources.commands import Floats
from jepa_sim.closed_loop.episodes import HELD_OUT_SEED
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_camera import backgrounds
from jepa_sim.worlds.two_rooms_geometry import LayoutKind, Layouts, sample_positions

ACTIONS = (("linear.x", "linear.y"), ("m/s", "m/s"))
# Two steps at top speed: no robot gets there in one.
TELEPORT_M = 0.5
# Apart from the worlds in which episodes are driven.
_PURPOSE = 500_000_000


@dataclass(frozen=True)
class Scenes:
    """n times a history of W frames, an action, what came of it, and what cannot come of it.

    Attributes:
        past: uint8 [n, W, h, w, 3].
        actions: float32 [n, W, A], executed from each of these frames until the next.
        came: by name (``normal`` first), uint8 [n, h, w, 3] each, in the same light.
    """

    past: Image
    actions: Floats
    came: dict[str, Image]


def drives(manifest: Manifest) -> bool:
    """Whether the model's actions are those of the robot in Two Rooms."""
    return (manifest.io.action.names, manifest.io.action.units) == ACTIONS


def draw(manifest: Manifest, *, layout: LayoutKind, count: int, seed: int) -> tuple[Clips, Scenes]:
    """``count`` clips, and the scenes at their beginning. Another layout each, if it is ``random``.

    Where the model's actions are others, the clips tell none, and there is nothing to be surprised at.
    """
    size, horizon, step_s = manifest.history_size, manifest.horizon, manifest.io.step_s
    rng = np.random.default_rng((HELD_OUT_SEED, _PURPOSE, seed))
    world = _Rooms(layout=layout, seed=HELD_OUT_SEED + _PURPOSE + seed)
    velocities = wander(rng, count, size + horizon)
    shape = manifest.io.frame.height, manifest.io.frame.width, 3
    frames = np.empty((count, size + horizon, *shape), np.uint8)
    came = {event: np.empty((count, *shape), np.uint8) for event in ("teleport", "wall removed")}
    for index in range(count):
        world.reset()
        for step in range(size + horizon):
            resize_into(world.render(), frames[index, step])
            if step == size:
                resize_into(world.render_elsewhere(rng), came["teleport"][index])
                resize_into(world.render_without_wall(), came["wall removed"][index])
            world.step(velocities[index, step], step_s)
    actions = velocities.astype(np.float32)
    name = f"Two Rooms, {layout} layouts never trained on"
    clips = clips_of(name, frames, actions if drives(manifest) else None, manifest, seed)
    return clips, Scenes(frames[:, :size], actions[:, :size], {"normal": frames[:, size], **came})


class _Rooms(TwoRooms):
    """Two Rooms, able to show for one frame what cannot be."""

    def render_elsewhere(self, rng: np.random.Generator) -> Image:
        """What the camera would see with the robot anywhere at least :data:`TELEPORT_M` away."""
        there = here = self._position
        while np.linalg.norm(there - here) < TELEPORT_M:
            there = sample_positions(rng, self.layouts)
        frame: Image = self._camera.render(self._background, there, self._light_now())[0]
        return frame

    def render_without_wall(self) -> Image:
        """What the camera would see without the wall between the rooms."""
        rooms = self.layouts
        # Centred on the arena's edge, the wall hides in the border.
        bare = backgrounds(Layouts(rooms.axis, np.zeros_like(rooms.wall), rooms.door))
        frame: Image = self._camera.render(bare, self._position, self._light_now())[0]
        return frame
