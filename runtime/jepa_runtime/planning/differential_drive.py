"""A differential drive: which components of an action drive it, and where it is after them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util.poses import Pose

_FORWARD, _TURN = "linear.x", "angular.z"
# Turn below which the path is straight within the precision of the numbers.
_STRAIGHT_RAD = 1e-6


@dataclass(frozen=True)
class DifferentialDrive:
    """Components of an action that drive a robot with two driven wheels.

    Attributes:
        forward: Index of ``linear.x`` [m/s].
        turn: Index of ``angular.z`` [rad/s].
        size: A, the number of components of an action.
    """

    forward: int
    turn: int
    size: int

    @classmethod
    def of(cls, action_names: Sequence[str]) -> DifferentialDrive:
        """Return the drive of a model with these action names.

        Raises:
            JepaRuntimeError: The actions do not drive such a robot.
        """
        names = list(action_names)
        if not {_FORWARD, _TURN} <= set(names):
            raise JepaRuntimeError(
                f"the model's actions are {', '.join(names) or 'not named'}, but steering needs {_FORWARD} "
                f"and {_TURN}: use cem or mppi",
                code="planner.cannot_steer",
            )
        return cls(names.index(_FORWARD), names.index(_TURN), len(names))

    def action(self, forward_mps: float, turn_radps: float) -> NDArray[np.float32]:
        """Return the action [A] with these velocities; its other components are 0."""
        action = np.zeros(self.size, np.float32)
        action[self.forward], action[self.turn] = forward_mps, turn_radps
        return action

    def motion(self, action: NDArray[np.floating], duration_s: float) -> Pose:
        """Return the pose [3] after an action [A] was held, in the frame of the robot before it.

        The velocities are constant, so that the path is an arc.
        """
        length, yaw = float(action[self.forward]) * duration_s, float(action[self.turn]) * duration_s
        if abs(yaw) < _STRAIGHT_RAD:
            return np.array([length, length * yaw / 2, yaw])
        return np.array([length * math.sin(yaw) / yaw, length * (1 - math.cos(yaw)) / yaw, yaw])
