"""Does a model serve well? From what it computes. Pure: results and moments are told.

That frames are late is said only when it is no chance: when Wilson's interval of the share of late frames
lies above one in a hundred. That predictions drift is said after ten seconds, when the interval of the share
of frames that surprise the model lies above one in two, and above what was usual before: what surprises comes
in bursts, and one of a second is no reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.profiling.intervals import wilson

_LATE_SHARE = 0.01
# One-sided 99.95 %: it is asked again every second, and a model is lost by it.
_SURE_Z = 3.29
_OFTEN, _LONG_S = 0.5, 10.0
# Fewer frames tell nothing of a model.
_FEWEST = 10


class Conduct:
    """Judges what serves. Told on one thread, asked on another.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.compare()
        self.begin(None)

    def compare(self) -> None:
        """From now on is counted how often the model that serves is surprised: that is usual here."""
        self._surprised = self._judged = 0

    def begin(self, budget_ms: float | None) -> None:
        """From now on the model that serves is judged.

        Args:
            budget_ms: of the 99th percentile of its encode and predict; None: any.
        """
        self._budget_ms, self._began_at = budget_ms, self._clock()
        self._found = ""
        self._timed = self._late = self._latents = 0
        self._usual = wilson(self._surprised, self._judged, _SURE_Z)[1] if self._judged >= _FEWEST else 0.0
        self.compare()

    @property
    def idle(self) -> bool:
        """Whether it has computed too little since then, as to be judged by it."""
        return self._latents < _FEWEST

    def latent(self, values: NDArray[np.floating]) -> None:
        """A latent."""
        self._latents += 1
        self._check_finite(values)

    def surprise(self, value: float, surprising: bool) -> None:
        """How far a latent was from what was predicted, and whether that is above the model's threshold."""
        self._check_finite(np.array([value]))
        self._judged += 1
        self._surprised += surprising

    def timed(self, milliseconds: float) -> None:
        """Encode and predict of one frame."""
        if self._budget_ms is not None:
            self._timed += 1
            self._late += milliseconds > self._budget_ms

    def find(self, what: str) -> None:
        """Something is wrong; the first such finding counts."""
        self._found = self._found or what

    def failure(self) -> str:
        """What is wrong since the model began; empty: nothing."""
        if self._found:
            return self._found
        if self._timed and wilson(self._late, self._timed, _SURE_Z)[0] > _LATE_SHARE:
            return (
                f"{self._late} of {self._timed} frames took over the {self._budget_ms:g} ms that 99 of 100 "
                "may take for encode and predict"
            )
        if self._drifts():
            return (
                f"it drifts: {self._surprised} of {self._judged} frames surprised it, and at most "
                f"{max(self._usual, _OFTEN):.0%} may"
            )
        return ""

    def _drifts(self) -> bool:
        if self._judged < _FEWEST or self._clock() - self._began_at < _LONG_S:
            return False
        return wilson(self._surprised, self._judged, _SURE_Z)[0] > max(self._usual, _OFTEN)

    def _check_finite(self, values: NDArray[np.floating]) -> None:
        if not np.isfinite(values).all():
            self.find("it computes NaN or infinity")
