"""Observed coverage: the proportion of errors within the bounds that were stated for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.proportions import wilson


@dataclass(frozen=True)
class CoverageRate:
    """Number of ``errors`` and of those ``within`` their bounds."""

    within: int
    errors: int

    @property
    def value(self) -> float | None:
        """The proportion; None before the first error."""
        return self.within / self.errors if self.errors else None

    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95 % interval; [0, 1] before the first error.

        It is valid for independent errors. Those of overlapping predictions are correlated, and the true
        interval is wider: approximately that of one error per horizon length.
        """
        return wilson(self.within, self.errors) if self.errors else (0.0, 1.0)


class Coverage:
    """Coverage of each horizon, over all errors and over the last ones.

    Args:
        horizons: Number of horizons.
        window: Number of last errors.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, horizons: int, *, window: int) -> None:
        if horizons < 1 or window < 1:
            raise ValueError(f"horizons and window must be at least 1, got {horizons} and {window}")
        self._last: NDArray[np.bool_] = np.zeros((horizons, window), bool)
        self._errors = np.zeros(horizons, np.int64)
        self._within = np.zeros(horizons, np.int64)

    def update(self, errors: NDArray[np.float64], stated: NDArray[np.float64]) -> None:
        """Count ``errors`` [H] (NaN where none arrived) against the bounds ``stated`` [H] with them."""
        arrived = np.flatnonzero(~np.isnan(errors))
        within = errors[arrived] <= stated[arrived]
        self._last[arrived, self._errors[arrived] % self._last.shape[1]] = within
        self._errors[arrived] += 1
        self._within[arrived] += within

    def overall(self) -> tuple[CoverageRate, ...]:
        """Return the coverage of each horizon over all errors."""
        return tuple(CoverageRate(int(a), int(b)) for a, b in zip(self._within, self._errors, strict=True))

    def recent(self) -> tuple[CoverageRate, ...]:
        """Return the coverage of each horizon over the last ``window`` errors."""
        counts = np.minimum(self._errors, self._last.shape[1])
        return tuple(CoverageRate(int(row.sum()), int(n)) for row, n in zip(self._last, counts, strict=True))


def clearly_below(coverage: CoverageRate, probability: float, *, correlated: int) -> bool:
    """Return whether the coverage is significantly below ``probability`` (Wilson's 95 % interval).

    Args:
        coverage: The observed coverage.
        probability: The target coverage.
        correlated: Number of consecutive errors that count as one independent error.
    """
    errors = coverage.errors // correlated
    if not errors:
        return False
    # Rounded up, so that a coverage that is not below is never significantly so.
    within = -(-coverage.within * errors // coverage.errors)
    return wilson(within, errors)[1] < probability
