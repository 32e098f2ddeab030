"""The robot in a MuJoCo scene: wheel speeds for a command, true pose, contacts, and wheel odometry."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose, compose, wrap
from jepa_sim.worlds.first_person.motion import (
    MAX_SPEED_MPS,
    MAX_TURN_RADPS,
    MIN_SPEED_MPS,
    TICK_S,
)
from jepa_sim.worlds.first_person_mujoco.house import close_door
from jepa_sim.worlds.first_person_mujoco.mujoco_import import mujoco
from jepa_sim.worlds.first_person_mujoco.robot_model import (
    BODY,
    WHEEL_RADIUS_M,
    WHEEL_SEPARATION_M,
    WHEELS,
)
from jepa_sim.worlds.interface import Image

# Standard deviations of what the odometry has wrong of a robot: the radius of both wheels, that of each, and
# their separation, each as a proportion. Slip comes on top, from contact and friction.
RADIUS_ERROR, EACH_RADIUS_ERROR, SEPARATION_ERROR = 0.015, 0.001, 0.02
# Resting this long without contact, the robot touches something again.
_APART_TICKS = 8
_SETTLING_S = 0.2

Floats = NDArray[np.float64]


class WheelEncoders:
    """Odometry from the angles of the wheels, which begins at the origin.

    Args:
        angles: Angles of the left and the right wheel [2].
        rng: Random numbers of the errors of radii and separation.

    Attributes:
        pose: x, y and heading [3]; the heading is between -pi and pi.
    """

    def __init__(self, angles: Floats, rng: np.random.Generator) -> None:
        scale = 1 + rng.normal(0, RADIUS_ERROR) + rng.normal(0, EACH_RADIUS_ERROR, 2)
        self._radii: Floats = WHEEL_RADIUS_M * scale
        self._separation = WHEEL_SEPARATION_M * (1 + rng.normal(0, SEPARATION_ERROR))
        self._angles = angles
        self.pose: Pose = np.zeros(3)

    def update(self, angles: Floats) -> None:
        """Add the motion since the last update.

        Args:
            angles: Angles of the left and the right wheel [2].
        """
        left, right = (angles - self._angles) * self._radii
        self._angles = angles
        turn = (right - left) / self._separation
        ahead = (left + right) / 2
        moved = np.array([ahead * math.cos(turn / 2), ahead * math.sin(turn / 2), turn])
        self.pose = compose(self.pose, moved)


class MuJoCoRobot:
    """A robot in a house.

    Args:
        model: The house.
        pose: Where it stands.
        rng: Random numbers of its odometry.
        draw: Returns the image of its camera.

    Attributes:
        contacts: How often it has come to touch something.
        path_m: Length of its path.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        pose: Pose,
        rng: np.random.Generator,
        draw: Callable[[mujoco.MjData], Image],
    ) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._draw = draw
        self._body = model.geom(BODY).id
        self._wheels = [model.joint(name).qposadr[0] for name in WHEELS]
        self._ticks_per_step = round(TICK_S / model.opt.timestep)
        place(self._data, pose)
        mujoco.mj_step(model, self._data, round(_SETTLING_S / model.opt.timestep))
        self._heading = float(pose[2])
        self._encoders = WheelEncoders(self._wheel_angles(), rng)
        self._apart_ticks = _APART_TICKS
        self.contacts = 0
        self.path_m = 0.0

    @property
    def pose(self) -> Pose:
        """True x, y and heading [3]; the heading is not limited to one turn."""
        x, y = self._data.qpos[:2]
        return np.array([x, y, self._heading])

    def read_odometry(self) -> Pose:
        """Return x, y and heading by the wheels [3], from the origin at the start; -pi <= heading < pi."""
        return self._encoders.pose

    def read_camera(self) -> Image:
        """Return the camera image, uint8 [72, 96, 3] RGB."""
        return self._draw(self._data)

    def drive(self, command: NDArray[np.floating], ticks: int) -> None:
        """Hold a command, ``linear.x`` in m/s and ``angular.z`` in rad/s, for a number of ticks.

        It is limited to what the robot can do.
        """
        speed = float(np.clip(command[0], MIN_SPEED_MPS, MAX_SPEED_MPS))
        turn = float(np.clip(command[1], -MAX_TURN_RADPS, MAX_TURN_RADPS))
        difference = turn * WHEEL_SEPARATION_M / 2
        self._data.ctrl[:] = (speed - difference) / WHEEL_RADIUS_M, (speed + difference) / WHEEL_RADIUS_M
        for _ in range(ticks):
            self._tick()

    def close_door(self, number: int) -> None:
        """Close a door of its house."""
        close_door(self._model, self._data, number)
        mujoco.mj_forward(self._model, self._data)

    def _tick(self) -> None:
        before = self._data.qpos[:2].copy()
        mujoco.mj_step(self._model, self._data, self._ticks_per_step)
        self.path_m += math.hypot(*(self._data.qpos[:2] - before))
        self._heading += wrap(_heading(self._data) - self._heading)
        self._encoders.update(self._wheel_angles())
        if self._is_touching():
            self.contacts += self._apart_ticks >= _APART_TICKS
            self._apart_ticks = 0
        else:
            self._apart_ticks += 1

    def _is_touching(self) -> bool:
        return bool((self._data.contact.geom[: self._data.ncon] == self._body).any())

    def _wheel_angles(self) -> Floats:
        angles: Floats = self._data.qpos[self._wheels]
        return angles


def place(data: mujoco.MjData, pose: Pose) -> None:
    """Put a robot upright on the floor at a pose [3]."""
    x, y, heading = pose
    data.qpos[:7] = x, y, 0.0, math.cos(heading / 2), 0.0, 0.0, math.sin(heading / 2)


def _heading(data: mujoco.MjData) -> float:
    w, x, y, z = data.qpos[3:7]
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
