"""Does a model serve well? From what it computes. Pure: results and moments are told.

That frames are late, or fail, is said when so many have a chance below one in 2000 with a model of which one
in a hundred does or, where that was usual with the model before, as many as with that one. (It is asked every
second: with a window of half a minute, some two of a thousand such models are found at fault.) That
predictions drift is said after ten seconds, when Wilson's interval of the share of frames that surprise the
model lies above one in two, and above what was usual before: surprises come in bursts, and a short one is no
reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.proportions import binomial_tail, wilson

_BAD_SHARE = 0.01
# It is asked again every second, and a model is lost by it.
_CHANCE, _SURE_Z = 5e-4, 3.29
_OFTEN, _LONG_S = 0.5, 10.0
# Fewer frames tell nothing of a model.
_FEWEST = 10


class ServingHealth:
    """Judges what serves. Told on one thread, asked on another; a frame that comes while it begins anew may
    count for either model.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._budget_ms: float | None = None
        self.compare()
        # Not self.begin: that of a subclass would run before its own __init__ has.
        ServingHealth.begin(self, None)

    def compare(self) -> None:
        """Begin to count what is usual with the model that serves."""
        self._timed = self._late = self._failed = self._latents = self._surprised = self._judged = 0

    def begin(self, budget_ms: float | None) -> None:
        """Begin to judge the model that serves.

        Args:
            budget_ms: of the 99th percentile of its encode and predict; None: any.
        """
        same = budget_ms == self._budget_ms
        self._knows_lateness = same and self._timed >= _FEWEST
        self._knows_surprise = self._judged >= _FEWEST
        self._judges_lateness = self._judges_drift = True
        self._usually_late = _usual(self._late, self._timed) if same else 0.0
        self._usually_failed = _usual(self._failed, self._failed + self._latents)
        self._usually_surprised = _usual(self._surprised, self._judged)
        self._budget_ms, self._began_at = budget_ms, self._clock()
        self._found = self._failure = ""
        self.compare()

    def forgive(self, *, lateness: bool) -> None:
        """Without knowledge of what is usual, do not judge this model by its surprises, nor by lateness."""
        self._judges_drift = self._knows_surprise
        self._judges_lateness = self._knows_lateness or not lateness

    @property
    def idle(self) -> bool:
        """Whether it has computed too little since then to be judged."""
        return self._latents < _FEWEST

    def latent(self, values: NDArray[np.floating]) -> None:
        """A latent."""
        self._latents += 1
        self._check_finite(values)

    def failed(self, why: str) -> None:
        """A frame of which nothing came."""
        self._failed += 1
        self._failure = why

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
        if _too_many(self._failed, self._failed + self._latents, self._usually_failed):
            return f"{self._failed} of {self._failed + self._latents} frames failed: {self._failure}"
        if self._judges_lateness and _too_many(self._late, self._timed, self._usually_late):
            return (
                f"{self._late} of {self._timed} frames took over the {self._budget_ms:g} ms that 99 of 100 "
                "may take for encode and predict"
            )
        if self._drifts():
            return (
                f"it drifts: {self._surprised} of {self._judged} frames surprised it, and at most "
                f"{max(self._usually_surprised, _OFTEN):.0%} may"
            )
        return ""

    def _drifts(self) -> bool:
        if not self._judges_drift or self._judged < _FEWEST or self._clock() - self._began_at < _LONG_S:
            return False
        return wilson(self._surprised, self._judged, _SURE_Z)[0] > max(self._usually_surprised, _OFTEN)

    def _check_finite(self, values: NDArray[np.floating]) -> None:
        if not np.isfinite(values).all():
            self.find("it computes NaN or infinity")


def _usual(count: int, of: int) -> float:
    """The share at most, as far as known."""
    return wilson(count, of, _SURE_Z)[1] if of >= _FEWEST else 0.0


def _too_many(count: int, of: int, usual: float) -> bool:
    share = max(usual, _BAD_SHARE)
    return of >= _FEWEST and share < 1 and binomial_tail(count, of, share) < _CHANCE
