"""The time from an image to the command that answers it, as measured."""

from __future__ import annotations

from collections import deque
from statistics import median

# Few, so that a lasting change is noticed within four images; one slow image changes nothing.
_DECISIONS = 7


class LatencyEstimate:
    """Predicts the latency of the next decision: the median of the last ones, 0 before the first."""

    def __init__(self) -> None:
        self._latencies_s: deque[float] = deque(maxlen=_DECISIONS)

    @property
    def value_s(self) -> float:
        """The predicted latency."""
        return median(self._latencies_s) if self._latencies_s else 0.0

    def add(self, latency_s: float) -> None:
        """Add the time from the stamp of an image to its command."""
        self._latencies_s.append(latency_s)
