"""Joining of the parts of a robot's state that several topics publish, such as a pose and a gripper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_AGE_S = 0.5
"""Longest time from a message of the other topics to one of the first (default)."""


class MeasuredState(NamedTuple):
    """The state [S] of a robot at ``stamp_ns``, float32."""

    stamp_ns: int
    values: NDArray[np.float32]


class StateParts:
    """Joins each message of the first topic with the newest one of each other topic.

    The state has the stamp of the first topic. The numbers of the topics follow each other in their order.

    Args:
        count: Number of topics (>= 1).
        max_age_s: Longest time between the stamps of joined messages.

    Attributes:
        missing: Index of a topic without which the last message of the first topic gave no state, because its
            newest message is too far away in time; None: the last one gave a state.
    """

    def __init__(self, count: int, max_age_s: float = MAX_AGE_S) -> None:
        self._newest: list[tuple[int, Sequence[float]] | None] = [None] * count
        self._max_age_ns = round(max_age_s * 1e9)
        self.missing: int | None = None

    def add(self, part: int, stamp_ns: int, values: Sequence[float]) -> MeasuredState | None:
        """Add the numbers of a message of topic ``part``.

        Returns:
            The state if the topic is the first one; None if a part of it is missing.

        Raises:
            ValueError: A number is not finite.
        """
        if not np.isfinite(values).all():
            raise ValueError(f"a state must be finite numbers, got {list(values)}")
        self._newest[part] = stamp_ns, values
        if part:
            return None
        joined: list[float] = []
        for index, newest in enumerate(self._newest):
            if newest is None or abs(newest[0] - stamp_ns) > self._max_age_ns:
                self.missing = index
                return None
            joined += newest[1]
        self.missing = None
        return MeasuredState(stamp_ns, np.array(joined, np.float32))
