"""Health of the world_model node after a model swap, from its diagnostics and its results.

Messages and times are passed in. A diagnostics verdict covers the time before it: the first one after
monitoring began may be about the previous model and is ignored.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.ota.health import ServingHealth
from jepa_runtime.telemetry import Level


class NodeHealthMonitor(ServingHealth):
    """Monitor one node. The executor's thread passes messages; another thread reads the result.

    Args:
        name: Name of the node, for messages.
        silent_after_s: Time without diagnostics, which are published every second, after which the node
            counts as gone.
        clock: Monotonic clock [s].

    Attributes:
        active_sha256: SHA-256 of the manifest of the active model, or an empty string if unknown.
        was_seen: Whether the node has ever been seen.
    """

    def __init__(
        self, name: str, *, silent_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.active_sha256 = ""
        self.was_seen = False
        self._name = name
        self._silent_after_s = silent_after_s
        self._last_message_at = -float("inf")
        self._pid = ""
        super().__init__(clock)
        self.begin(None)

    def begin(self, budget_ms: float | None) -> None:
        """Start monitoring; see :meth:`ServingHealth.begin`."""
        super().begin(budget_ms)
        self._latent_at = float("inf")
        self._pid_at_begin = self._pid
        self._verdicts: Counter[str] = Counter()
        self._frame_at = -float("inf")

    def expect_latents(self) -> None:
        """Start the timeout of latents, once their topic is discovered."""
        self._latent_at = self._clock()

    @property
    def is_alive(self) -> bool:
        """Whether diagnostics have arrived recently."""
        return self._clock() - self._last_message_at <= self._silent_after_s

    def on_diagnostics(self, name: str, level: int, message: str, values: Mapping[str, str]) -> None:
        """Process the node's verdict on one of its cameras."""
        self.was_seen = True
        self._last_message_at = self._clock()
        self._pid = values.get("pid", "")
        self._verdicts[name] += 1
        frame_at = self._last_message_at - _number(values.get("frame_age_s", ""))
        if frame_at - self._frame_at > self._silent_after_s:
            # No images arrived before, so no latents were expected.
            self._latent_at = max(self._latent_at, frame_at)
        self._frame_at = max(self._frame_at, frame_at)
        if level == Level.ERROR and self._verdicts[name] > 1:
            self.find(f"{name}: {message}")

    def latent(self, values: NDArray[np.floating]) -> None:
        """Process a latent."""
        self._latent_at = self._clock()
        super().latent(values)

    def failure(self) -> str:
        """Return what has failed since monitoring began, or an empty string."""
        if not self.is_alive:
            return f"{self._name} is gone: no diagnostics for {self._silent_after_s:g} s"
        if self._pid != self._pid_at_begin and self._pid_at_begin:
            return f"{self._name} exited and was restarted"
        if self._frame_at - self._latent_at > self._silent_after_s:
            self.find(f"images arrive, but no latent for {self._silent_after_s:g} s")
        return super().failure()


class SwitchPermission:
    """Hold the permission of the robot to switch models.

    Args:
        required: Whether a permission is required.
        timeout_s: Validity of a permission [s]. 0: until the next message.
        clock: Monotonic clock [s].
    """

    def __init__(
        self, *, required: bool, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._required, self._timeout_s, self._clock = required, timeout_s, clock
        self._latest = (False, 0.0)

    def set(self, safe: bool) -> None:
        """Set the latest permission."""
        self._latest = (safe, self._clock())

    @property
    def granted(self) -> bool:
        """Whether the robot may switch now."""
        if not self._required:
            return True
        safe, set_at = self._latest
        return safe and (not self._timeout_s or self._clock() - set_at <= self._timeout_s)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")
