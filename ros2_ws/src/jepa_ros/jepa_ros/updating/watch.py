"""Does what was switched to serve well? From what the node that serves says of itself, and what is seen of
it. Pure: messages and moments are told.

A verdict of its diagnostics covers the time before it: the first one after the watch began tells of the model
that served before, and does not count. That frames are late is said only when it is no chance: when Wilson's
interval of the share of late frames lies above one in a hundred. That its predictions drift is said after ten
seconds, when the interval of the share of frames that surprise it lies above one in two, and above what was
usual before: what surprises comes in bursts, and one of a second is no reason.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from jepa_ros.diagnostics import Level
from jepa_runtime.profiling.intervals import wilson

_LATE_SHARE = 0.01
# One-sided 99.95 %: it is asked again every second, and a model is lost by it.
_SURE_Z = 3.29
_OFTEN, _LONG_S = 0.5, 10.0
# Fewer frames tell nothing of a model.
_FEWEST = 10


class Watch:
    """Watches one node. Told on the executor's thread, asked on another.

    Args:
        name: of the node, for messages.
        silent_after_s: a node from which no diagnostics came for this long is gone: they come every second.
        clock: seconds.

    Attributes:
        serves: the SHA-256 of the manifest of what serves; empty: it has not said so.
        seen: whether the node was ever there.
    """

    def __init__(
        self, name: str, *, silent_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.serves = ""
        self.seen = False
        self._name = name
        self._silent_after_s = silent_after_s
        self._clock = clock
        self._heard_at = -float("inf")
        self._pid = ""
        self.compare()
        self.begin(None)

    def compare(self) -> None:
        """From now on is counted how often the model that serves is surprised: that is usual here."""
        self._surprised = self._judged = 0

    def begin(self, budget_ms: float | None) -> None:
        """From now on the model that serves is watched.

        Args:
            budget_ms: of the 99th percentile of its encode and predict; None: any.
        """
        self._budget_ms = budget_ms
        self._began_at, self._latent_at = self._clock(), float("inf")
        self._pid_then = self._pid
        self._found = ""
        self._verdicts: Counter[str] = Counter()
        self._frames_come = False
        self._timed = self._late = self._latents = 0
        self._usual = wilson(self._surprised, self._judged, _SURE_Z)[1] if self._judged >= _FEWEST else 0.0
        self.compare()

    def listen(self) -> None:
        """From now on its latents would be heard: finding their topic takes a while on a busy machine."""
        self._latent_at = self._clock()

    @property
    def idle(self) -> bool:
        """Whether it has computed too little since the watch began, as to be judged by it."""
        return self._latents < _FEWEST

    @property
    def there(self) -> bool:
        """Whether the node lives, as far as can be told."""
        return self._clock() - self._heard_at <= self._silent_after_s

    def diagnosed(self, name: str, level: int, message: str, values: Mapping[str, str]) -> None:
        """The node's verdict on one of its cameras."""
        self.seen = True
        self._heard_at = self._clock()
        self._pid = values.get("pid", "")
        self._verdicts[name] += 1
        self._frames_come = _number(values.get("frame_age_s", "")) <= self._silent_after_s
        if level == Level.ERROR and self._verdicts[name] > 1:
            self.find(f"{name}: {message}")

    def latent(self, values: NDArray[np.floating]) -> None:
        """A latent."""
        self._latent_at = self._clock()
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

    def failure(self) -> str:
        """What is wrong since the watch began; empty: nothing."""
        if not self.there:
            return f"{self._name} is gone: nothing was heard of it for {self._silent_after_s:g} s"
        if self._pid != self._pid_then and self._pid_then:
            return f"{self._name} ended and was started again"
        if self._found:
            return self._found
        if self._frames_come and self._clock() - self._latent_at > self._silent_after_s:
            return f"images come, but no latent for {self._silent_after_s:g} s"
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

    def find(self, what: str) -> None:
        """Something is wrong; the first such finding counts."""
        self._found = self._found or what

    def _drifts(self) -> bool:
        if self._judged < _FEWEST or self._clock() - self._began_at < _LONG_S:
            return False
        return wilson(self._surprised, self._judged, _SURE_Z)[0] > max(self._usual, _OFTEN)

    def _check_finite(self, values: NDArray[np.floating]) -> None:
        if not np.isfinite(values).all():
            self.find("it computes NaN or infinity")


class SafeWord:
    """Whether somebody says that the robot may switch.

    Args:
        required: whether anybody has to.
        timeout_s: how long a word holds; 0: until the next one.
    """

    def __init__(
        self, *, required: bool, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._required, self._timeout_s, self._clock = required, timeout_s, clock
        self._word = (False, 0.0)

    def say(self, safe: bool) -> None:
        """The last word."""
        self._word = (safe, self._clock())

    @property
    def safe(self) -> bool:
        """Whether it may switch now."""
        if not self._required:
            return True
        safe, at = self._word
        return safe and (not self._timeout_s or self._clock() - at <= self._timeout_s)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")
