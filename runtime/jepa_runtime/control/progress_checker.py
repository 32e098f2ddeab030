"""Whether the robot still gets closer to its goal."""

from __future__ import annotations

import math

# An energy below this proportion of the best so far is progress.
PROGRESS = 0.98


class ProgressChecker:
    """Decides from the energy to the goal whether the robot is stuck.

    Args:
        allowance_ns: Driving time without progress (2 % of the energy) after which the robot is stuck.
    """

    def __init__(self, allowance_ns: int) -> None:
        self._allowance_ns = allowance_ns
        self.reset()

    def reset(self) -> None:
        """Forget the best energy, as for a new goal."""
        self._best, self._elapsed_ns = math.inf, 0

    def add_time(self, elapsed_ns: int) -> None:
        """Add time in which the robot was driving."""
        self._elapsed_ns += elapsed_ns

    def grant(self, duration_ns: int) -> None:
        """Restart the count, and do not count the next ``duration_ns``, as during a recovery motion."""
        self._elapsed_ns = -duration_ns

    def makes_progress(self, energy: float) -> bool:
        """Return whether ``energy`` is progress, and if so, restart the count."""
        if not energy < PROGRESS * self._best:
            return False
        self._best, self._elapsed_ns = energy, 0
        return True

    def is_stuck(self, energy: float) -> bool:
        """Return whether the allowance is used up, and if so, start again from ``energy``."""
        if self._elapsed_ns <= self._allowance_ns:
            return False
        self._best, self._elapsed_ns = energy, 0
        return True
