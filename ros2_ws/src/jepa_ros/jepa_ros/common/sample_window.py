"""The latest samples of something, in memory that is taken at once: nodes run for weeks and must not grow."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

# Of images at 30 Hz: an hour.
_MOST = 108_000


class SampleWindow:
    """Rows of ``dtype`` (structured: with a field for each quantity), of which the latest ``most`` stay."""

    def __init__(self, dtype: DTypeLike, most: int = _MOST) -> None:
        # Ones: pages of zeros would come one by one, as they are written to.
        self._rows = np.ones(most, dtype)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, len(self._rows))

    def add(self, row: ArrayLike) -> None:
        """Add one; a row of several fields is a tuple."""
        self._rows[self._count % len(self._rows)] = row
        self._count += 1

    def last(self) -> np.generic | None:
        """The newest; None: there is none."""
        return self._rows[(self._count - 1) % len(self._rows)] if self._count else None

    def latest(self) -> NDArray[np.generic]:
        """Those that stay, the oldest first."""
        if self._count <= len(self._rows):
            return self._rows[: self._count]
        return np.roll(self._rows, -(self._count % len(self._rows)))


def rounded(values_ms: NDArray[np.float32]) -> list[float]:
    """For a report: to the microsecond."""
    return [round(value, 3) for value in values_ms.tolist()]
