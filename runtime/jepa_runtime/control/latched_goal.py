"""The goal that is latched on ``goal_image``: for how long a robot may drive to it."""

from __future__ import annotations

import math
from collections.abc import Callable

from jepa_runtime.control.receding_horizon import Futures


class LatchedGoal:
    """The latched goal, known by its stamp. Once it is over it stays so, until there is one of another stamp:
    a world model that starts anew takes the same image again, and the robot must not set out to it.

    Args:
        timeout_s: it is over after so long, reached or not; 0: never.
        clock: monotonic seconds.
    """

    def __init__(self, *, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._stamp_ns: int | None = None
        self._since_s = 0.0
        # The stamp of the one that is over, and of the one that will be once another model serves.
        self._over_ns: int | None = None
        self._over_at_exchange_ns: int | None = None
        # Whether the newest futures are about the latched goal.
        self._is_sought = False
        # Those stamped until then are over.
        self._stopped_until_ns = -math.inf

    @property
    def is_over(self) -> bool:
        """Whether the newest futures are about it, but the robot may not drive to it any more."""
        return self._is_sought and self._stamp_ns == self._over_ns

    @property
    def is_out_of_time(self) -> bool:
        """Whether it was latched longer ago than is allowed."""
        return self._timeout_s > 0 and self._clock() - self._since_s > self._timeout_s

    def see(self, futures: Futures, *, now_ns: int, another_waits: bool) -> bool:
        """Note which goal ``futures`` are about; whether it is another one than before.

        Args:
            now_ns: by the clock of stamps.
            another_waits: a goal was asked for of which the world model has not heard yet: the latched one
                was there before it.
        """
        if self._stopped_until_ns < math.inf:
            # A clock that was set back must not leave goals over that are yet to come.
            self._stopped_until_ns = min(self._stopped_until_ns, now_ns)
        stamp_ns = futures.goal_stamp_ns
        self._is_sought = stamp_ns is not None and not futures.goal_asked
        if stamp_ns is None or not self._is_sought or stamp_ns == self._over_ns:
            return False
        is_another = stamp_ns != self._stamp_ns
        if is_another:
            self._stamp_ns, self._since_s = stamp_ns, self._clock()
        self._over_ns, self._over_at_exchange_ns = None, stamp_ns if another_waits else None
        if stamp_ns <= self._stopped_until_ns:
            self.leave()
        return is_another and not self.is_over

    def another_is_asked(self) -> None:
        """A goal was asked for: a model that serves later must not bring this one back."""
        self._over_at_exchange_ns = self._stamp_ns

    def model_exchanged(self) -> None:
        """Another model serves, or the same one anew."""
        self._over_ns = self._over_at_exchange_ns

    def stopped(self) -> None:
        """The robot is stopped: it is over, and so is each that is latched until :meth:`released`."""
        self._stopped_until_ns = math.inf
        self.leave()

    def released(self, now_ns: int) -> None:
        """The robot is stopped no more, at ``now_ns`` by the clock of stamps."""
        self._stopped_until_ns = now_ns

    def leave(self) -> None:
        """It is over."""
        self._over_ns = self._over_at_exchange_ns = self._stamp_ns
