"""Whether the images show the commanded motion. Without ROS; the caller passes the clock.

A frozen camera does not show the robot's motion, whatever its images look like: the last image with noise,
the last images in turn, or half of a live one. So motion counts as unconfirmed until images show the change
that the model predicts of it. Motion is measured in seconds at full effort; times the top speed that is a
distance, which bounds how far a robot drives without seeing its motion.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# A second of motion that images show as predicted reduces the unconfirmed motion by this much, less that
# second. On probation the credit is smaller, so that half a frozen image is not enough.
_CREDIT_S, _PROBATION_CREDIT_S = 3.0, 1.5
# Limit of what one image counts against the motion: the image went back by several steps.
_MIN_RESPONSE = -3.0


class MotionCheck:
    """Integrates commanded motion and subtracts what images confirm.

    Args:
        clock: Monotonic seconds.

    Attributes:
        unconfirmed_s: Unconfirmed motion, seconds at full effort, at least 0.
        shown_s: Motion that images have shown, less motion that they did not show, since the last probation
            began; seconds at full effort.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.unconfirmed_s = 0.0
        # Effort of the present command, since when it counts, and the motion since the last observation.
        self._effort, self._since_s, self._pending_s = 0.0, clock(), 0.0
        self._observed_s = clock()
        # On probation: lower bound of the unconfirmed motion, and the shown motion that ends the probation.
        self._floor_s = self.shown_s = self._required_s = 0.0

    @property
    def is_moving(self) -> bool:
        """Whether the robot is commanded to move."""
        return self._effort > 0

    @property
    def total_s(self) -> float:
        """Unconfirmed motion now, including the motion that no image has been compared with yet."""
        self._integrate()
        return self.unconfirmed_s + self._pending_s

    def set_command(self, effort: float) -> None:
        """Set the effort of the present command (0: stand, 1: the maximum)."""
        self._integrate()
        self._effort = effort

    def observe(self, effort: float, response: float, *, step_s: float) -> bool:
        """Add the comparison of an image with its prediction.

        Args:
            effort: Mean effort executed in the previous step. It replaces the commanded effort since the last
                observation, which another component may have limited.
            response: Proportion of the predicted change that the image shows; NaN: no change is predicted.
            step_s: Duration of a step. If the last observation is older, the effort in between is unknown,
                and at most what was commanded.

        Returns:
            Whether all motion is confirmed and the probation is over.
        """
        self._integrate()
        now_s = self._clock()
        elapsed_s, self._observed_s = now_s - self._observed_s, now_s
        commanded_s, self._pending_s = self._pending_s, 0.0
        shown = 0.0 if math.isnan(response) else min(max(response, _MIN_RESPONSE), 1.0)
        moved_s = max(effort * min(elapsed_s, step_s), min(effort * elapsed_s, commanded_s))
        self.shown_s = max(self.shown_s + moved_s * shown, 0.0)
        if self.shown_s >= self._required_s:
            self._floor_s = 0.0
        credit_s = _PROBATION_CREDIT_S if self._floor_s else _CREDIT_S
        self.unconfirmed_s = max(self.unconfirmed_s + moved_s * (1.0 - credit_s * shown), self._floor_s)
        return self.unconfirmed_s == 0.0 and shown > 0.0

    def begin_probation(self, allowance_s: float, limit_s: float) -> None:
        """Allow ``allowance_s`` of unconfirmed motion until images have shown ``limit_s`` of motion."""
        self._integrate()
        self._pending_s = self.shown_s = 0.0
        self._required_s = limit_s
        self.unconfirmed_s = self._floor_s = max(limit_s - allowance_s, 0.0)

    def _integrate(self) -> None:
        now_s = self._clock()
        self._pending_s += self._effort * (now_s - self._since_s)
        self._since_s = now_s
