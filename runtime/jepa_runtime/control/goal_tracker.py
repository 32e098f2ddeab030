"""The progress of one requested goal, from acceptance to its end. Without ROS; the caller passes the time."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace

from jepa_runtime.control.progress_checker import PROGRESS
from jepa_runtime.util.compat import StrEnum


class Outcome(StrEnum):
    """Outcome of a goal, as in jepa_msgs/action/ReachGoal."""

    REACHED = "reached"
    STUCK = "stuck"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ABORTED = "aborted"


@dataclass(frozen=True)
class GoalResult:
    """How a goal ended, and why."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class GoalConfig:
    """Limits of one goal.

    Attributes:
        goal_ns: Stamp that identifies the goal in the futures.
        threshold: Energy at or below which it is reached; None: the model's.
        timeout_s: Time after which it ends; None: never.
        give_up_after: The goal ends as stuck once the robot was stuck this many times without progress.
        failure_tolerance_s: The goal is aborted once the robot has been stopped for longer than this.
        is_via: Reaching it does not end it: the robot waits there for :meth:`GoalTracker.move`.
        pose_is_given: Its pose is given to :meth:`Controller.set_goal_pose`, instead of read by the model.
    """

    goal_ns: int
    threshold: float | None
    timeout_s: float | None
    give_up_after: int
    failure_tolerance_s: float
    is_via: bool = False
    pose_is_given: bool = False


class GoalTracker:
    """Tracks one goal. Its first result is final.

    Args:
        config: Limits of the goal.
        now_s: When it was accepted, by the clock of :meth:`check_timeouts`.

    Attributes:
        result: None while the goal is in progress.
        is_set: The world model has accepted the goal; set by the caller. Futures before that belong to the
            previous goal, which may have the same stamp.
        is_replaced: The goal ended because another one was set.
        energy: Energy of the newest image; NaN: unknown.
        best_energy: Lowest energy so far; NaN: unknown.
        is_reached: The robot is at the present goal.
        steps: Model steps so far, by the stamps of the images; jumps of their clock do not count.
        duration_s: Time since the goal was accepted.
    """

    def __init__(self, config: GoalConfig, *, now_s: float) -> None:
        self.config = config
        self.result: GoalResult | None = None
        self.is_set = False
        self.is_replaced = self.is_reached = False
        self._ended = threading.Event()
        self.energy = self.best_energy = math.nan
        self.steps = 0
        self.duration_s = 0.0
        # When the goal was accepted, and when its timeout started.
        self._accepted_s = self._moved_s = now_s
        self._newest_ns: int | None = None
        # Stamps of earlier goals, until the futures for the present one arrive.
        self._earlier_ns: set[int] = set()
        self._elapsed_ns = 0
        self._stuck_count = 0

    @property
    def has_futures(self) -> bool:
        """Whether futures for this goal have arrived."""
        return self._newest_ns is not None

    def finish(self, outcome: Outcome, reason: str) -> bool:
        """End the goal; return False if it had ended before."""
        if self.result is not None:
            return False
        self.result = GoalResult(outcome, reason)
        self._ended.set()
        return True

    def move(self, goal_ns: int, *, is_via: bool, now_s: float) -> None:
        """Continue to another goal: futures for the earlier ones are valid until those for this one arrive.

        The timeout starts again.
        """
        self._earlier_ns.add(self.config.goal_ns)
        self.config = replace(self.config, goal_ns=goal_ns, is_via=is_via)
        self.is_reached = False
        self._moved_s = now_s
        self.reset_energies()

    def wait(self) -> GoalResult:
        """Wait for the result; for use in another thread."""
        self._ended.wait()
        if self.result is None:
            raise RuntimeError("the goal has ended without a result")
        return self.result

    def matches(self, goal_ns: int | None) -> bool:
        """Return whether futures with this goal stamp (None: no goal) belong to this goal.

        If they no longer do, the goal ends.
        """
        if not self.is_set:
            return False
        if goal_ns == self.config.goal_ns:
            self._earlier_ns.clear()
            return True
        if goal_ns in self._earlier_ns:
            return True
        if self.has_futures:
            self.is_replaced = goal_ns is not None
            self.finish(
                Outcome.ABORTED, "another goal was set" if self.is_replaced else "the goal was cleared"
            )
        return False

    def update(self, *, stamp_ns: int, step_ns: int, energy: float, stuck_count: int, reached: bool) -> None:
        """Add an image.

        Args:
            stamp_ns: Stamp of the image.
            step_ns: Duration of a model step.
            energy: Energy of the image to the goal.
            stuck_count: How often the robot has been stuck, with any goal.
            reached: Whether the present goal is reached.
        """
        if self._newest_ns is None:
            self._stuck_count = stuck_count
        elif 0 < stamp_ns - self._newest_ns <= self.config.failure_tolerance_s * 1e9:
            self._elapsed_ns += stamp_ns - self._newest_ns
        self._newest_ns = stamp_ns
        self.energy = energy
        self.steps = self._elapsed_ns // step_ns
        best = math.inf if math.isnan(self.best_energy) else self.best_energy
        if energy < PROGRESS * best:
            self._stuck_count = stuck_count
        if energy < best:
            self.best_energy = energy
        attempts = stuck_count - self._stuck_count
        self.is_reached = reached
        if reached and not self.config.is_via:
            self.finish(Outcome.REACHED, f"the energy is {energy:.4g}")
        elif attempts >= self.config.give_up_after:
            self.finish(
                Outcome.STUCK,
                f"no progress beyond an energy of {self.best_energy:.4g} in {attempts} attempts",
            )

    def reset_energies(self) -> None:
        """Forget the energies, since those of another model are not comparable."""
        self.energy = self.best_energy = math.nan

    def check_timeouts(self, now_s: float, stopped_reason: str) -> None:
        """End the goal if its time is over.

        Args:
            now_s: The time.
            stopped_reason: Why the robot has been stopped for longer than ``failure_tolerance_s``; empty: it
                has not. Time before the goal was accepted does not count.
        """
        self.duration_s = now_s - self._accepted_s
        config = self.config
        is_overdue = self.duration_s > config.failure_tolerance_s
        if config.timeout_s is not None and now_s - self._moved_s > config.timeout_s:
            self.finish(Outcome.TIMEOUT, f"not reached within {config.timeout_s:g} s")
        elif is_overdue and stopped_reason:
            self.finish(Outcome.ABORTED, stopped_reason)
        elif is_overdue and not self.has_futures:
            self.finish(
                Outcome.ABORTED,
                f"no futures for this goal arrived within {config.failure_tolerance_s:g} s: check that the "
                "world model is running",
            )
