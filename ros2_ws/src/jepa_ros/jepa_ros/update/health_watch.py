"""Does what was switched to serve well? From what the node that serves says of itself, and what is seen of
it. Pure: messages and moments are told.

A verdict of its diagnostics covers the time before it: the first one after the watch began tells of the model
that served before, and does not count.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.ota.health.serving_health import ServingHealth
from jepa_runtime.telemetry.diagnostics import Level


class HealthWatch(ServingHealth):
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
        self._heard_at = -float("inf")
        self._pid = ""
        super().__init__(clock)
        self.begin(None)

    def begin(self, budget_ms: float | None) -> None:
        """See :meth:`ServingHealth.begin`."""
        super().begin(budget_ms)
        self._latent_at = float("inf")
        self._pid_then = self._pid
        self._verdicts: Counter[str] = Counter()
        self._frame_at = -float("inf")

    def listen(self) -> None:
        """From now on its latents would be heard: finding their topic takes a while on a busy machine."""
        self._latent_at = self._clock()

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
        frame_at = self._heard_at - _number(values.get("frame_age_s", ""))
        if frame_at - self._frame_at > self._silent_after_s:
            # Until then there was nothing to be silent about.
            self._latent_at = max(self._latent_at, frame_at)
        self._frame_at = max(self._frame_at, frame_at)
        if level == Level.ERROR and self._verdicts[name] > 1:
            self.find(f"{name}: {message}")

    def latent(self, values: NDArray[np.floating]) -> None:
        """A latent."""
        self._latent_at = self._clock()
        super().latent(values)

    def failure(self) -> str:
        """What is wrong since the watch began; empty: nothing."""
        if not self.there:
            return f"{self._name} is gone: nothing was heard of it for {self._silent_after_s:g} s"
        if self._pid != self._pid_then and self._pid_then:
            return f"{self._name} ended and was started again"
        if self._frame_at - self._latent_at > self._silent_after_s:
            self.find(f"images come, but no latent for {self._silent_after_s:g} s")
        return super().failure()


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
