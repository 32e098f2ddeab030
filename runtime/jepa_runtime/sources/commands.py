"""The commands a robot was given, over time: pure, each held from its stamp until the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Stamps = NDArray[np.int64]

# A base that hears nothing for this long stops by itself (cmd_vel_timeout of ROS 2's diff_drive_controller).
MAX_AGE_S = 0.5
_LONGEST_S = 86_400.0


class Commands:
    """Commands as a step function of time (zero-order hold, as :class:`jepa_runtime.serving.history.History`
    has it).

    Args:
        names, units: of the A components.
        stamps_ns: [M], from when on each command is in force; of equal stamps the last counts.
        values: [M, A] (SI units).
        max_age_s: how long a command holds; after that nothing is known until the next one.

    Raises:
        ValueError: no command, stamps that go back, or values that are not M x A finite numbers.
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
        if not 0 < max_age_s <= _LONGEST_S:
            raise ValueError(f"max_age_s must lie in (0, {_LONGEST_S:g}], got {max_age_s:g}")
        self.max_age_ns = round(max_age_s * 1e9)
        count = len(self.stamps_ns)
        if count == 0:
            raise ValueError("there is no command")
        if self.values.shape != (count, len(self.names)):
            raise ValueError(
                f"commands must be {count} times {len(self.names)} numbers, got {list(self.values.shape)}"
            )
        unusable = np.flatnonzero(~np.isfinite(self.values).all(axis=1))
        if len(unusable):
            first = unusable[0]
            raise ValueError(
                f"{len(unusable)} of {count} commands are not finite, first {first}: {values[first]}"
            )
        back = np.flatnonzero(np.diff(self.stamps_ns) < 0)
        if len(back):
            raise ValueError(f"the stamps of commands go back after command {back[0]} of {count}")
        held = self.values[:-1].astype(float) * np.diff(self.stamps_ns)[:, None]
        # Of what was held, over time [ns], until the stamp of each command.
        self._integrals = np.concatenate([np.zeros((1, len(self.names))), held.cumsum(axis=0)])

    def known(self, stamps_ns: Stamps) -> NDArray[np.bool_]:
        """Whether a command is in force at each of ``stamps_ns`` [n], and not too old."""
        index = np.searchsorted(self.stamps_ns, stamps_ns, side="right") - 1
        ages = stamps_ns - self.stamps_ns[index]
        known: NDArray[np.bool_] = (index >= 0) & (ages <= self.max_age_ns)
        return known

    def at(self, stamp_ns: int) -> Floats | None:
        """The command [A] executed from ``stamp_ns`` on: the last one at or before it; None where none is
        known.
        """
        if not self.known(np.array([stamp_ns]))[0]:
            return None
        command: Floats = self.values[np.searchsorted(self.stamps_ns, stamp_ns, side="right") - 1]
        return command

    def mean(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        """Time-weighted means [n, A] of what was held over each [start, end), which begins where a command is
        :meth:`known` and is not empty.
        """
        first = np.searchsorted(self.stamps_ns, starts_ns, side="right") - 1
        last = np.searchsorted(self.stamps_ns, ends_ns, side="left") - 1
        held = self._integral(ends_ns, last) - self._integral(starts_ns, first)
        means = held / (ends_ns - starts_ns)[:, None]
        exact: Floats = np.where((first == last)[:, None], self.values[first], means).astype(np.float32)
        return exact

    def _integral(self, stamps_ns: Stamps, index: NDArray[np.intp]) -> NDArray[np.float64]:
        """Of what was held until ``stamps_ns``, when the commands at ``index`` are in force."""
        since = (stamps_ns - self.stamps_ns[index])[:, None]
        until: NDArray[np.float64] = self._integrals[index] + self.values[index] * since.astype(float)
        return until
