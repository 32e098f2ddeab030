"""The tour of a house in first-person rooms as a source of frames, with odometry and commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.sources import Frame, PassiveSource
from jepa_runtime.util import OdometryPose
from jepa_sim.closed_loop.first_person.protocol import Assignment
from jepa_sim.worlds.first_person.compilation import announce_compilation
from jepa_sim.worlds.first_person.levels import LEVELS
from jepa_sim.worlds.first_person.world import TOUR_LEVEL

# Enough for the key frames of a route.
_DEFAULT_RATE_HZ = 5.0


class FirstPersonTourSource(PassiveSource):
    """Frames of a drive through every room of a house, with a full turn in each.

    The house is that of the world ``first_person_tour`` with the same seed.

    Args:
        seed: Seed of everything.
        rate_hz: Frame rate; None: 5.
    """

    def __init__(self, *, seed: int = 0, rate_hz: float | None = None) -> None:
        self.name = f"first_person_tour (seed {seed})"
        self.rate_hz: float | None = rate_hz or _DEFAULT_RATE_HZ
        self._seed, self._period_s = seed, 1 / self.rate_hz
        self._pose: OdometryPose | None = None
        self._command: NDArray[np.float32] | None = None

    @property
    def command(self) -> NDArray[np.float32] | None:
        """Command of the driver from the last frame's stamp until the next [2]."""
        return self._command

    @property
    def pose(self) -> OdometryPose | None:
        """Pose of the robot by its wheels at the last frame."""
        return self._pose

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of the tour."""
        level, rng = LEVELS[TOUR_LEVEL], np.random.default_rng(self._seed)
        with announce_compilation():
            mission = level.sample(rng, True)
            with closing(mission.open_scene(rng)) as scene:
                shown = Assignment(level, mission, scene).demonstration(self._period_s)
        start_ns = time.time_ns()
        for number, (time_s, image, odometry) in enumerate(
            zip(shown.times_s, shown.images, shown.odometry, strict=True)
        ):
            self._command = shown.commands[number].astype(np.float32)
            x, y, heading = odometry.tolist()
            self._pose = OdometryPose((x, y, heading), part=0)
            yield Frame(image, start_ns + round(time_s * 1e9), "camera", number)
