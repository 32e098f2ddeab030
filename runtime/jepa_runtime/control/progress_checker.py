"""Whether a robot still gets nearer to its goal."""

from __future__ import annotations

import math

# An energy below this share of the best so far is progress towards a goal.
PROGRESS = 0.98


class ProgressChecker:
    """Tells a robot that got no nearer (by 2 %) for ``patience`` steps; None: never."""

    def __init__(self, patience: int | None) -> None:
        self._patience = math.inf if patience is None else patience
        self.reset()

    def reset(self) -> None:
        """Forget the best so far, as for a new goal."""
        self._best, self._without_progress = math.inf, 0

    def is_stuck(self, energy: float) -> bool:
        """Take in the energy of the present step. One that is stuck begins anew."""
        if energy < PROGRESS * self._best:
            self._best, self._without_progress = energy, 0
            return False
        self._without_progress += 1
        if self._without_progress < self._patience:
            return False
        self.reset()
        return True
