"""Assesses whether a model serves correctly, from its outputs. Pure: results and times are passed in.

Late or failed frames are reported if their number has a probability below 1 in 2000 for a model with 1 % of
such frames or, if more were usual with the previous model, for that proportion. (The check runs every second:
in a window of half a minute, about two of a thousand such models are reported wrongly.)

Drift is reported after ten seconds if Wilson's interval of the proportion of surprising frames lies above one
half, and above what was usual before. Surprising frames come in bursts, so a short burst is no reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.proportions import binomial_tail, wilson

_TOLERATED_PROPORTION = 0.01
# Small, because the check is repeated every second and its result rejects a model.
_CHANCE, _SURE_Z = 5e-4, 3.29
_DRIFT_PROPORTION, _DRIFT_AFTER_S = 0.5, 10.0
# With fewer frames no statement is made.
_MIN_FRAMES = 10


class ServingHealth:
    """Assesses the active model.

    Results are passed in on one thread, and the verdict is read on another. A frame that arrives while a new
    assessment begins may count for either model.

    Args:
        clock: A monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._budget_ms: float | None = None
        self.compare()
        # Not self.begin: an override would run before the __init__ of its class.
        ServingHealth.begin(self, None)

    def compare(self) -> None:
        """Begin to record the baseline with the active model."""
        self._timed = self._late = self._failed = self._latents = self._surprised = self._judged = 0

    def begin(self, budget_ms: float | None) -> None:
        """Begin to assess the active model.

        Args:
            budget_ms: Budget of the 99th percentile of its encode and predict; None: unlimited.
        """
        same = budget_ms == self._budget_ms
        self._knows_lateness = same and self._timed >= _MIN_FRAMES
        self._knows_surprise = self._judged >= _MIN_FRAMES
        self._judges_lateness = self._judges_drift = True
        self._usually_late = _usual(self._late, self._timed) if same else 0.0
        self._usually_failed = _usual(self._failed, self._failed + self._latents)
        self._usually_surprised = _usual(self._surprised, self._judged)
        self._budget_ms, self._began_at = budget_ms, self._clock()
        self._found = self._failure = ""
        self.compare()

    def forgive(self, *, lateness: bool) -> None:
        """Ignore drift, and lateness if asked, unless it is known what is usual."""
        self._judges_drift = self._knows_surprise
        self._judges_lateness = self._knows_lateness or not lateness

    @property
    def idle(self) -> bool:
        """Whether too few frames were processed for an assessment."""
        return self._latents < _MIN_FRAMES

    def latent(self, values: NDArray[np.floating]) -> None:
        """Record a latent."""
        self._latents += 1
        self._check_finite(values)

    def failed(self, why: str) -> None:
        """Record a frame that failed."""
        self._failed += 1
        self._failure = why

    def surprise(self, value: float, surprising: bool) -> None:
        """Record a prediction error, and whether it exceeds the model's threshold."""
        self._check_finite(np.array([value]))
        self._judged += 1
        self._surprised += surprising

    def timed(self, milliseconds: float) -> None:
        """Record the duration of encode and predict of one frame."""
        if self._budget_ms is not None:
            self._timed += 1
            self._late += milliseconds > self._budget_ms

    def find(self, what: str) -> None:
        """Report a failure; the first one counts."""
        self._found = self._found or what

    def failure(self) -> str:
        """Return what is wrong since the assessment began, or an empty string."""
        if self._found:
            return self._found
        if _too_many(self._failed, self._failed + self._latents, self._usually_failed):
            return f"{self._failed} of {self._failed + self._latents} frames failed: {self._failure}"
        if self._judges_lateness and _too_many(self._late, self._timed, self._usually_late):
            return (
                f"{self._late} of {self._timed} frames exceeded the latency budget of {self._budget_ms:g} ms "
                "for encode and predict, which 99 % must meet"
            )
        if self._drifts():
            return (
                f"predictions drift: {self._surprised} of {self._judged} frames were surprising, at most "
                f"{max(self._usually_surprised, _DRIFT_PROPORTION):.0%} are tolerated"
            )
        return ""

    def _drifts(self) -> bool:
        if not self._judges_drift or self._judged < _MIN_FRAMES:
            return False
        if self._clock() - self._began_at < _DRIFT_AFTER_S:
            return False
        lowest = wilson(self._surprised, self._judged, _SURE_Z)[0]
        return lowest > max(self._usually_surprised, _DRIFT_PROPORTION)

    def _check_finite(self, values: NDArray[np.floating]) -> None:
        if not np.isfinite(values).all():
            self.find("the model computes NaN or infinity")


def _usual(count: int, of: int) -> float:
    """Return the upper bound of a proportion, or 0 if it is unknown."""
    return wilson(count, of, _SURE_Z)[1] if of >= _MIN_FRAMES else 0.0


def _too_many(count: int, of: int, usual: float) -> bool:
    tolerated = max(usual, _TOLERATED_PROPORTION)
    return of >= _MIN_FRAMES and tolerated < 1 and binomial_tail(count, of, tolerated) < _CHANCE
