"""A bounded window of samples, allocated once: nodes run for weeks, and their memory must not grow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

# One hour of images at 30 Hz.
_CAPACITY = 108_000


class SampleWindow:
    """Store the latest ``capacity`` rows of ``dtype`` (structured: one field per quantity)."""

    def __init__(self, dtype: DTypeLike, capacity: int = _CAPACITY) -> None:
        # Ones, since pages of zeros would be allocated only when written to.
        self._rows = np.ones(capacity, dtype)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._rows))

    def add(self, row: ArrayLike) -> None:
        """Add a row; a row with several fields is a tuple."""
        self._rows[self._count % len(self._rows)] = row
        self._count += 1

    def last(self) -> Any:
        """Return the newest row, or None if there is none."""
        return self._rows[(self._count - 1) % len(self._rows)] if self._count else None

    def latest(self) -> NDArray[Any]:
        """Return the stored rows, oldest first."""
        if self._count <= len(self._rows):
            return self._rows[: self._count]
        return np.roll(self._rows, -(self._count % len(self._rows)))


def round_ms(values_ms: NDArray[np.float32]) -> list[float]:
    """Return durations rounded to the microsecond, for a report."""
    return [round(value, 3) for value in values_ms.tolist()]
