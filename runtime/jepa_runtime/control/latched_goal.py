"""The goal latched on ``goal_image``: for how long the robot may drive to it."""

from __future__ import annotations

import math
from collections.abc import Callable

from jepa_runtime.control.receding_horizon import PlannerInput


class LatchedGoal:
    """The latched goal, identified by its stamp.

    Once it has expired it stays so until a goal with another stamp is latched: a restarted world model
    receives the same image again, and the robot must not drive to it.

    Args:
        timeout_s: Time after which it expires, reached or not; 0: never.
        clock: Monotonic seconds.
    """

    def __init__(self, *, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._stamp_ns: int | None = None
        self._since_s = 0.0
        # Stamp of the expired goal, and of the one that expires once another model is active.
        self._expired_ns: int | None = None
        self._expires_with_model_ns: int | None = None
        # Whether the newest futures belong to the latched goal.
        self._is_active = False
        # Goals with stamps up to this one have expired.
        self._stopped_until_ns = -math.inf

    @property
    def is_expired(self) -> bool:
        """Whether the newest futures belong to the latched goal, but the robot may no longer drive to it."""
        return self._is_active and self._stamp_ns == self._expired_ns

    @property
    def has_timed_out(self) -> bool:
        """Whether it was latched longer ago than the timeout."""
        return self._timeout_s > 0 and self._clock() - self._since_s > self._timeout_s

    def update(self, futures: PlannerInput, *, now_ns: int, request_pending: bool) -> bool:
        """Note the goal of ``futures``; return whether it is a new one.

        Args:
            futures: The newest futures.
            now_ns: The time, by the clock of the stamps.
            request_pending: A goal was requested that the world model does not have yet: the latched one is
                older.
        """
        if self._stopped_until_ns < math.inf:
            # If the clock was set back, future goals must not count as expired.
            self._stopped_until_ns = min(self._stopped_until_ns, now_ns)
        stamp_ns = futures.goal_stamp_ns
        self._is_active = stamp_ns is not None and not futures.goal_requested
        if stamp_ns is None or not self._is_active or stamp_ns == self._expired_ns:
            return False
        is_new = stamp_ns != self._stamp_ns
        if is_new:
            self._stamp_ns, self._since_s = stamp_ns, self._clock()
        self._expired_ns, self._expires_with_model_ns = None, stamp_ns if request_pending else None
        if stamp_ns <= self._stopped_until_ns:
            self.expire()
        return is_new and not self.is_expired

    def goal_requested(self) -> None:
        """Note that another goal was requested: a later model must not restore this one."""
        self._expires_with_model_ns = self._stamp_ns

    def model_changed(self) -> None:
        """Note that another model is active, or the same one after a restart."""
        self._expired_ns = self._expires_with_model_ns

    def stopped(self) -> None:
        """Expire it, and every goal that is latched until :meth:`released`."""
        self._stopped_until_ns = math.inf
        self.expire()

    def released(self, now_ns: int) -> None:
        """Note that the robot is no longer stopped, at ``now_ns`` by the clock of the stamps."""
        self._stopped_until_ns = now_ns

    def expire(self) -> None:
        """Expire it."""
        self._expired_ns = self._expires_with_model_ns = self._stamp_ns
