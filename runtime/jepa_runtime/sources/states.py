"""Recorded states of a robot over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.state_parts import MeasuredState


class States:
    """Measured states of a robot.

    Args:
        names: The names of the S components.
        units: Their units.
        stamps_ns: [M], the times at which they were measured.
        values: [M, S], finite numbers (SI units).

    Raises:
        ValueError: Stamps decrease.
    """

    def __init__(
        self,
        names: Sequence[str],
        units: Sequence[str],
        stamps_ns: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        self.names, self.units = tuple(names), tuple(units)
        self.stamps_ns, self.values = stamps_ns, values
        decreasing = np.flatnonzero(np.diff(stamps_ns) < 0)
        if len(decreasing):
            raise ValueError(f"the stamps of states decrease after state {decreasing[0]} of {len(stamps_ns)}")

    def nearest(self, stamp_ns: int) -> MeasuredState:
        """Return the state that was measured nearest to ``stamp_ns``."""
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        near = range(max(0, after - 1), min(after + 1, len(self.stamps_ns)))
        index = min(near, key=lambda each: abs(int(self.stamps_ns[each]) - stamp_ns))
        return MeasuredState(int(self.stamps_ns[index]), self.values[index])
