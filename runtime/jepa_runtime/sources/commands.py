"""Recorded commands over time, each in force from its stamp until the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
"""Actions, float32."""
Stamps = NDArray[np.int64]
"""Times in ns, int64."""

# Without a command for this long a base stops (cmd_vel_timeout of ROS 2's diff_drive_controller).
MAX_AGE_S = 0.5
MAX_DURATION_S = 86_400.0


class Commands:
    """Commands as a step function of time (zero-order hold).

    Args:
        names: The names of the A components.
        units: Their units.
        stamps_ns: [M], the times from which each command is in force; of equal stamps the last counts.
        values: [M, A] (SI units).
        max_age_s: How long a command is in force; after that the command is unknown until the next one.

    Raises:
        ValueError: There is no command, stamps decrease, or the values are not M x A finite numbers.
    """

    def __init__(
        self,
        names: Sequence[str],
        units: Sequence[str],
        stamps_ns: NDArray[np.integer],
        values: NDArray[np.floating],
        *,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self.names, self.units = tuple(names), tuple(units)
        self.stamps_ns: Stamps = np.asarray(stamps_ns, np.int64)
        self.values: Floats = np.asarray(values, np.float32)
        if not 0 < max_age_s <= MAX_DURATION_S:
            raise ValueError(f"max_age_s must be in (0, {MAX_DURATION_S:g}], got {max_age_s:g}")
        self.max_age_ns = round(max_age_s * 1e9)
        count = len(self.stamps_ns)
        if count == 0:
            raise ValueError("there are no commands")
        if self.values.shape != (count, len(self.names)):
            raise ValueError(f"commands must be [{count}, {len(self.names)}], got {list(self.values.shape)}")
        unusable = np.flatnonzero(~np.isfinite(self.values).all(axis=1))
        if len(unusable):
            first = unusable[0]
            raise ValueError(
                f"{len(unusable)} of {count} commands are not finite, the first is {first}: {values[first]}"
            )
        decreasing = np.flatnonzero(np.diff(self.stamps_ns) < 0)
        if len(decreasing):
            raise ValueError(f"the stamps of commands decrease after command {decreasing[0]} of {count}")
        integral = self.values[:-1].astype(float) * np.diff(self.stamps_ns)[:, None]
        # The integral of the commands over time [ns], until the stamp of each command.
        self._integrals = np.concatenate([np.zeros((1, len(self.names))), integral.cumsum(axis=0)])

    def known(self, stamps_ns: Stamps) -> NDArray[np.bool_]:
        """Return whether a command is in force at each of ``stamps_ns`` [n]."""
        index = np.searchsorted(self.stamps_ns, stamps_ns, side="right") - 1
        ages = stamps_ns - self.stamps_ns[index]
        known: NDArray[np.bool_] = (index >= 0) & (ages <= self.max_age_ns)
        return known

    def at(self, stamp_ns: int) -> Floats | None:
        """Return the command [A] in force from ``stamp_ns`` on; None if it is unknown."""
        if not self.known(np.array([stamp_ns]))[0]:
            return None
        command: Floats = self.values[np.searchsorted(self.stamps_ns, stamp_ns, side="right") - 1]
        return command

    def mean(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        """Return the time-weighted mean commands [n, A] over each interval [start, end).

        Intervals are not empty, and start where a command is :meth:`known`.
        """
        first = np.searchsorted(self.stamps_ns, starts_ns, side="right") - 1
        last = np.searchsorted(self.stamps_ns, ends_ns, side="left") - 1
        integral = self._integral(ends_ns, last) - self._integral(starts_ns, first)
        means = integral / (ends_ns - starts_ns)[:, None]
        exact: Floats = np.where((first == last)[:, None], self.values[first], means).astype(np.float32)
        return exact

    def _integral(self, stamps_ns: Stamps, index: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the integral until ``stamps_ns``, at which the commands at ``index`` are in force."""
        since = (stamps_ns - self.stamps_ns[index])[:, None]
        until: NDArray[np.float64] = self._integrals[index] + self.values[index] * since.astype(float)
        return until
