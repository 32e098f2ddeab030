"""A robot at the start of a route, in a house that goes on while it thinks.

The caller states how much time has passed; the sensors are read at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import WorldError
from jepa_runtime.util import Pose, relative, wrap
from jepa_sim.closed_loop.first_person.protocol import mission_of
from jepa_sim.worlds.first_person.compilation import announce_compilation
from jepa_sim.worlds.first_person.levels import LEVELS, Mission
from jepa_sim.worlds.first_person.motion import TICK_S
from jepa_sim.worlds.first_person.paths import Command
from jepa_sim.worlds.first_person.scene import Scene
from jepa_sim.worlds.interface import Image

LEVEL = LEVELS["TR"]


def route_mission(seed: int) -> Mission:
    """Return the mission of a route in a held-out house, which is that of :class:`RouteSimulation`."""
    return mission_of(LEVEL, seed)


@dataclass(frozen=True)
class Reading:
    """The sensors of the robot at a moment, and where it is.

    Attributes:
        image: The camera image, uint8 [72, 96, 3] RGB.
        odometry: x, y and heading by the wheels [3], from the origin at the start.
        velocity: Speed in m/s and turn rate in rad/s by the wheels [2].
        true_pose: True x, y and heading [3], which no robot knows.
    """

    image: Image
    odometry: Pose
    velocity: NDArray[np.float64]
    true_pose: Pose


class RouteSimulation:
    """A robot, its house, and a route through it.

    Args:
        seed: Seed of the house, the route, and the noise of all sensors.
        report: Called with a line for people if the first use takes longer, because it compiles the world.

    Attributes:
        mission: The house, the route and the start.
        time_s: Time since the last reset, up to which the world is simulated.
    """

    def __init__(self, seed: int, *, report: Callable[[str], None] = lambda _: None) -> None:
        self._seed = seed
        self._resets = 0
        self._scene: Scene | None = None
        with announce_compilation(report):
            self.mission = route_mission(seed)
            self.reset(displaced=False)
            self.advance(TICK_S, lambda _: np.zeros(2))
            self.read(TICK_S)
        self.reset(displaced=False)

    @property
    def doors(self) -> int:
        """Number of doors on the route."""
        return len(self._doors)

    @property
    def contacts(self) -> int:
        """How often the robot has come to touch something since the last reset."""
        return self._robot.contacts

    @property
    def _doors(self) -> list[int]:
        recording = self.mission.recording
        assert recording is not None
        return self.mission.layout.doors_on(recording.poses)

    def reset(self, *, displaced: bool) -> None:
        """Put the robot to the start of the route, open all doors, and start the odometry again.

        Args:
            displaced: Whether it stands as a person sets a robot down, some 0.1 m and 7 degrees off.
        """
        self.close()
        self._scene = self.mission.open_scene(np.random.default_rng((self._seed, 3, self._resets)))
        self._resets += 1
        recording = self.mission.recording
        assert recording is not None
        self._robot = self._scene.robot(self.mission.start if displaced else recording.poses[0])
        self._ticks = 0
        self._closing: int | None = None
        # True poses and odometry at the last two ticks.
        self._before = self._after = self._robot.pose, self._robot.read_odometry()

    def advance(self, time_s: float, command: Callable[[float], Command]) -> None:
        """Simulate the world up to a time since the last reset.

        Args:
            time_s: The time.
            command: Returns ``linear.x`` in m/s and ``angular.z`` in rad/s at a time.
        """
        while self.time_s < time_s - 1e-9:
            self._robot.drive(command(self.time_s), 1)
            self._ticks += 1
            self._before, self._after = self._after, (self._robot.pose, self._robot.read_odometry())
            if self._closing is not None and self._opened.close_door(self._closing):
                self._closing = None

    @property
    def time_s(self) -> float:
        """Time since the last reset up to which the world is simulated, a multiple of 25 ms."""
        return self._ticks * TICK_S

    def read(self, time_s: float) -> Reading:
        """Return the sensors at a time that is at most one tick in the past."""
        fraction = float(np.clip(1 - (self.time_s - time_s) / TICK_S, 0.0, 1.0))
        true_pose, odometry = (
            _between(before, after, fraction) for before, after in zip(self._before, self._after, strict=True)
        )
        ahead, _, turn = relative(self._before[1], self._after[1])
        return Reading(
            image=self._opened.images(true_pose[None])[0],
            odometry=odometry,
            velocity=np.array([ahead, turn]) / TICK_S,
            true_pose=true_pose,
        )

    def close_door(self, nth: int) -> None:
        """Close a door on the route as soon as the robot does not stand in it.

        Args:
            nth: Which of the doors on the way; -1: the last one.

        Raises:
            WorldError: The route has fewer doors.
        """
        doors = self._doors
        if not -len(doors) <= nth < len(doors):
            raise WorldError(
                f"the route has no door {nth}: it has {len(doors)}, from 0 to {len(doors) - 1}",
                code="sim.no_door",
            )
        self._closing = doors[nth]

    def close(self) -> None:
        """Release what draws the images."""
        if self._scene is not None:
            self._scene.close()
            self._scene = None

    @property
    def _opened(self) -> Scene:
        assert self._scene is not None
        return self._scene


def _between(before: Pose, after: Pose, fraction: float) -> Pose:
    """Return the pose at a fraction of the way from one pose to another; -pi <= heading < pi."""
    x, y = before[:2] + fraction * (after[:2] - before[:2])
    return np.array([x, y, wrap(before[2] + fraction * wrap(after[2] - before[2]))])
