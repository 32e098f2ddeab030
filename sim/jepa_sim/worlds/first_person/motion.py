"""How the robot moves: a differential drive with a round body that slides along obstacles, compiled."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.compilation import compiled
from jepa_sim.worlds.first_person.layouts import (
    BOTTOM,
    HALF_X,
    HALF_Y,
    HEADING,
    IS_ROUND,
    PackedLayouts,
    X,
    Y,
)

ROBOT_RADIUS_M = 0.18
MIN_SPEED_MPS, MAX_SPEED_MPS, MAX_TURN_RADPS = -0.2, 0.8, 1.5
TICK_S = 0.025
LAG_S = 0.1
# Solids that begin higher do not touch the robot.
_PASSABLE_M = 0.6
# Columns of a state: true pose, velocity, pose by the wheels, and whether the robot touches something.
_WHEELS, _TOUCHING = 5, 8

Floats = NDArray[np.float64]
Solids = NDArray[np.float32]


class Robot:
    """A robot in a layout.

    Args:
        layouts: The layouts.
        which: Number of the layout that it is in.
        pose: Where it stands.

    Attributes:
        layouts: The layouts; they may be replaced while it drives.
        contacts: How often it has come to touch something.
        path_m: Length of its path.
    """

    def __init__(self, layouts: PackedLayouts, which: int, pose: Pose) -> None:
        self.layouts = layouts
        self._which = which
        self._state = np.zeros(9)
        self._state[:3] = pose
        self.contacts = 0
        self.path_m = 0.0

    @property
    def pose(self) -> Pose:
        """True x, y and heading [3]; the heading is not limited to one turn."""
        pose: Pose = self._state[:3].copy()
        return pose

    @property
    def wheel_pose(self) -> Pose:
        """Where its wheels would have taken it from the origin without contact [3]."""
        pose: Pose = self._state[_WHEELS : _WHEELS + 3].copy()
        return pose

    def drive(self, command: NDArray[np.floating], ticks: int) -> None:
        """Hold a command, ``linear.x`` in m/s and ``angular.z`` in rad/s, for a number of ticks.

        It is limited to what the robot can do.
        """
        speed = float(np.clip(command[0], MIN_SPEED_MPS, MAX_SPEED_MPS))
        turn = float(np.clip(command[1], -MAX_TURN_RADPS, MAX_TURN_RADPS))
        solids, count = self.layouts.solids[self._which], int(self.layouts.solid_count[self._which])
        contacts, path_m = move(self._state, speed, turn, ticks, solids, count)
        self.contacts += contacts
        self.path_m += path_m


@compiled
def clearance(x: float, y: float, solids: Solids, count: int) -> float:
    """Return the distance from the robot's body to what could touch it; negative inside."""
    least = 1e9
    for k in range(count):
        if solids[k, BOTTOM] > _PASSABLE_M:
            continue
        ox, oy = x - solids[k, X], y - solids[k, Y]
        if solids[k, IS_ROUND] > 0.5:
            distance = math.hypot(ox, oy) - solids[k, HALF_X]
        else:
            cos, sin = math.cos(solids[k, HEADING]), math.sin(solids[k, HEADING])
            bx, by = (
                abs(ox * cos + oy * sin) - solids[k, HALF_X],
                abs(-ox * sin + oy * cos) - solids[k, HALF_Y],
            )
            distance = math.hypot(max(bx, 0.0), max(by, 0.0)) + min(max(bx, by), 0.0)
        least = min(least, distance)
    return least - ROBOT_RADIUS_M


@compiled
def _push_out(x: float, y: float, solids: Solids, count: int) -> tuple[float, float]:
    """Return the center of a body that overlaps solids, pushed out of them by the shortest way."""
    for _ in range(3):
        for k in range(count):
            if solids[k, BOTTOM] > _PASSABLE_M:
                continue
            ox, oy = x - solids[k, X], y - solids[k, Y]
            if solids[k, IS_ROUND] > 0.5:
                distance = math.hypot(ox, oy)
                gap = distance - solids[k, HALF_X] - ROBOT_RADIUS_M
                if gap < 0 and distance > 1e-6:
                    x -= ox / distance * gap
                    y -= oy / distance * gap
            else:
                cos, sin = math.cos(solids[k, HEADING]), math.sin(solids[k, HEADING])
                bx, by = ox * cos + oy * sin, -ox * sin + oy * cos
                nearest_x = min(max(bx, -solids[k, HALF_X]), solids[k, HALF_X])
                nearest_y = min(max(by, -solids[k, HALF_Y]), solids[k, HALF_Y])
                ex, ey = bx - nearest_x, by - nearest_y
                distance = math.hypot(ex, ey)
                if 1e-9 < distance < ROBOT_RADIUS_M:
                    factor = (ROBOT_RADIUS_M - distance) / distance
                    x += (ex * cos - ey * sin) * factor
                    y += (ex * sin + ey * cos) * factor
    return x, y


@compiled
def move(
    state: Floats, speed: float, turn: float, ticks: int, solids: Solids, count: int
) -> tuple[int, float]:
    """Advance a state [9] by a number of ticks; return new contacts and the length of the path.

    The state has the true x, y and heading, the velocities, the x, y and heading by the wheels, which do not
    notice that the body slides, and whether it touches something.
    """
    contacts, path = 0, 0.0
    for _ in range(ticks):
        state[3] += (speed - state[3]) * TICK_S / LAG_S
        state[4] += (turn - state[4]) * TICK_S / LAG_S
        halfway = state[2] + state[4] * TICK_S / 2
        free_x = state[0] + state[3] * math.cos(halfway) * TICK_S
        free_y = state[1] + state[3] * math.sin(halfway) * TICK_S
        state[2] += state[4] * TICK_S
        x, y = _push_out(free_x, free_y, solids, count)
        touching = math.hypot(x - free_x, y - free_y) > 1e-9
        if touching and not state[_TOUCHING]:
            contacts += 1
        state[_TOUCHING] = touching
        path += math.hypot(x - state[0], y - state[1])
        state[0], state[1] = x, y
        halfway = state[7] + state[4] * TICK_S / 2
        state[5] += state[3] * math.cos(halfway) * TICK_S
        state[6] += state[3] * math.sin(halfway) * TICK_S
        state[7] += state[4] * TICK_S
    return contacts, path
