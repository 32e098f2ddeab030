"""How often errors really lay within the bounds that were stated for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.proportions import wilson


@dataclass(frozen=True)
class CoverageRate:
    """How many of ``errors`` lay within their bounds."""

    within: int
    errors: int

    @property
    def value(self) -> float | None:
        """The share; None before the first error."""
        return self.within / self.errors if self.errors else None

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; [0, 1] before the first error.

        It holds for independent errors. Those of overlapping predictions are alike, and the true interval is
        wider: about as if there were only one error a horizon's length.
        """
        return wilson(self.within, self.errors) if self.errors else (0.0, 1.0)


class Coverage:
    """Of each of ``horizons`` horizons, the share within the bound: over all errors, and over the last
    ``window``.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, horizons: int, *, window: int) -> None:
        if horizons < 1 or window < 1:
            raise ValueError(f"horizons and window must be at least 1, got {horizons} and {window}")
        self._last: NDArray[np.bool_] = np.zeros((horizons, window), bool)
        self._errors = np.zeros(horizons, np.int64)
        self._within = np.zeros(horizons, np.int64)

    def update(self, errors: NDArray[np.float64], stated: NDArray[np.float64]) -> None:
        """Count ``errors`` [H] (NaN where none arrived) against the bounds ``stated`` [H] with them."""
        came = np.flatnonzero(~np.isnan(errors))
        within = errors[came] <= stated[came]
        self._last[came, self._errors[came] % self._last.shape[1]] = within
        self._errors[came] += 1
        self._within[came] += within

    def overall(self) -> tuple[CoverageRate, ...]:
        """One share a horizon, of all errors."""
        return tuple(CoverageRate(int(a), int(b)) for a, b in zip(self._within, self._errors, strict=True))

    def recent(self) -> tuple[CoverageRate, ...]:
        """One share a horizon, of the last ``window`` errors."""
        counts = np.minimum(self._errors, self._last.shape[1])
        return tuple(CoverageRate(int(row.sum()), int(n)) for row, n in zip(self._last, counts, strict=True))


def clearly_below(share: CoverageRate, probability: float, *, alike: int) -> bool:
    """Whether a share is below ``probability`` by more than chance explains (Wilson's 95 % interval) where
    only one error in ``alike`` is independent of the others.
    """
    errors = share.errors // alike
    if not errors:
        return False
    # Rounded up, so that a share that is not below is never clearly so.
    within = -(-share.within * errors // share.errors)
    return wilson(within, errors)[1] < probability
