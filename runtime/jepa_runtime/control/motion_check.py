"""Whether the images show the motion that is commanded. Decided without ROS, clocks passed in.

A robot whose camera hangs sees nothing of its own motion, whatever the pictures look like: the last image
with noise, the last images in turn, or half of a live one. So motion counts as unconfirmed until images show
the change that the model predicts of it. Motion is measured in seconds at full effort; times the top speed
that is a distance, which bounds how far a robot drives without seeing its motion.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# A second of motion that images show as predicted takes this much off what is unconfirmed, less that second;
# on probation less, so that half a picture that hangs is not enough.
_CREDIT_S, _PROBATION_CREDIT_S = 3.0, 1.5
# The most that one image says against the motion: the picture went back by several steps.
_LEAST_RESPONSE = -3.0


class MotionCheck:
    """Adds up commanded motion, and takes off what images confirm.

    Args:
        clock: monotonic seconds.

    Attributes:
        unconfirmed_s: seconds at full effort, at least 0.
        shown_s: seconds at full effort that images have shown, net of those that they did not, since the last
            probation began.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.unconfirmed_s = 0.0
        # The effort of the present command, since when it counts, and what was commanded since the last
        # observation.
        self._effort, self._since_s, self._pending_s = 0.0, clock(), 0.0
        self._observed_s = clock()
        # On probation: below what the unconfirmed motion does not fall, and how much shown motion ends it.
        self._floor_s = self.shown_s = self._owed_s = 0.0

    @property
    def is_moving(self) -> bool:
        """Whether the robot is commanded to move."""
        return self._effort > 0

    @property
    def total_s(self) -> float:
        """What is unconfirmed now, with the motion that no image has been compared with yet."""
        self._add_up()
        return self.unconfirmed_s + self._pending_s

    def command(self, effort: float) -> None:
        """From now on the robot is commanded to move with this ``effort`` (0: to stand, 1: the most)."""
        self._add_up()
        self._effort = effort

    def observe(self, effort: float, response: float) -> bool:
        """An image was compared with the prediction.

        Args:
            effort: mean of what was executed in the step before; it replaces what was commanded since the
                last observation, which others may have held back.
            response: proportion of the predicted change that the image shows; NaN: no change is predicted.

        Returns:
            Whether all motion is confirmed by now, and probation is over.
        """
        self._add_up()
        now_s = self._clock()
        passed_s, self._observed_s, self._pending_s = now_s - self._observed_s, now_s, 0.0
        shown = 0.0 if math.isnan(response) else min(max(response, _LEAST_RESPONSE), 1.0)
        moved_s = effort * passed_s
        self.shown_s = max(self.shown_s + moved_s * shown, 0.0)
        if self.shown_s >= self._owed_s:
            self._floor_s = 0.0
        credit_s = _PROBATION_CREDIT_S if self._floor_s else _CREDIT_S
        self.unconfirmed_s = max(self.unconfirmed_s + moved_s * (1.0 - credit_s * shown), self._floor_s)
        return self.unconfirmed_s == 0.0 and shown > 0.0

    def begin_probation(self, allowance_s: float, limit_s: float) -> None:
        """Leave at most ``allowance_s`` until ``limit_s``, until as much motion as that was shown."""
        self._add_up()
        self._pending_s = self.shown_s = 0.0
        self._owed_s = limit_s
        self.unconfirmed_s = self._floor_s = max(limit_s - allowance_s, 0.0)

    def _add_up(self) -> None:
        now_s = self._clock()
        self._pending_s += self._effort * (now_s - self._since_s)
        self._since_s = now_s
