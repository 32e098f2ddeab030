"""Two Rooms as a source of frames: a simulated robot explores, seen by the overhead camera."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.imaging import Image
from jepa_runtime.sources import Frame, PassiveSource, view_name
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS, LayoutKind
from jepa_sim.worlds.two_rooms_world import TwoRooms

_DEFAULT_RATE_HZ = 30.0
_EPISODE_S = 12.0
_PAUSE_NS = 1_000_000_000
_TURN_RADPS = 1.5
_SPEED_CHANGE_PER_S = 1.0


class TwoRoomsSource(PassiveSource):
    """Frames of a robot that explores smoothly, and its commands (velocity x, y in m/s).

    Every 12 s a new episode begins in another place. Its frames have another ``frame_id`` and its stamps
    begin a second later, so that readers of recordings can separate episodes.

    Args:
        seed: Seed of everything.
        layout: ``random`` (a new one in each episode) or ``fixed``.
        rate_hz: Frame rate; None: 30.
        start_ns: Stamp of the first frame; None: now.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        layout: LayoutKind = "random",
        rate_hz: float | None = None,
        start_ns: int | None = None,
    ) -> None:
        self.name = f"two_rooms (seed {seed}, {layout} layout)"
        self.rate_hz: float | None = rate_hz or _DEFAULT_RATE_HZ
        self._period_s = 1.0 / self.rate_hz
        self._start_ns = time.time_ns() if start_ns is None else start_ns
        self._rng = np.random.default_rng([seed, 1])
        self._world = TwoRooms(layout=layout, seed=seed)
        self._goal: Image = self._world.render_goal()
        self._heading, self._speed = self._rng.uniform(-np.pi, np.pi), MAX_SPEED_MPS / 2
        self._velocity = np.zeros(2)

    @property
    def command(self) -> NDArray[np.float32] | None:
        """Velocity [x, y] in m/s from the last frame's stamp until the next."""
        return self._velocity.astype(np.float32)

    @property
    def goal(self) -> Image | None:
        """Image of the robot at the goal of this episode."""
        return self._goal

    def frames(self) -> Iterator[Frame]:
        """Yield frames without end."""
        per_episode = max(1, round(_EPISODE_S / self._period_s))
        sequence = 0
        while True:
            episode = sequence // per_episode
            if sequence and sequence % per_episode == 0:
                self._world.reset()
                self._goal = self._world.render_goal()
            self._explore()
            stamp_ns = self._start_ns + round(sequence * self._period_s * 1e9) + episode * _PAUSE_NS
            yield Frame(self._world.render(), stamp_ns, view_name("overhead_camera", episode), sequence)
            self._world.step(self._velocity, self._period_s)
            sequence += 1

    def _explore(self) -> None:
        noise = self._rng.standard_normal(2) * np.sqrt(self._period_s)
        self._heading += _TURN_RADPS * noise[0]
        self._speed = float(np.clip(self._speed + _SPEED_CHANGE_PER_S * noise[1], 0.0, MAX_SPEED_MPS))
        self._velocity = self._speed * np.array([np.cos(self._heading), np.sin(self._heading)])
