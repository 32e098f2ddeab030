"""One goal from when it was accepted until it ends. Decided without ROS, clocks passed in."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from jepa_runtime.control.progress_checker import PROGRESS
from jepa_runtime.util.compat import StrEnum


class Outcome(StrEnum):
    """As in jepa_msgs/action/ReachGoal."""

    REACHED = "reached"
    STUCK = "stuck"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    ABORTED = "aborted"


@dataclass(frozen=True)
class End:
    """How a goal ended, and why."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class GoalConfig:
    """What is asked, and how long it is tried.

    Attributes:
        goal_ns: stamp by which the futures name the goal.
        threshold: energy at or below which it is reached; None: the model's.
        timeout_s: None: never over.
        give_up_after: a robot that was stuck so often without getting nearer is stuck for good.
        patience_s: whatever makes the robot stand for longer ends the goal.
    """

    goal_ns: int
    threshold: float | None
    timeout_s: float | None
    give_up_after: int
    patience_s: float


class GoalTracker:
    """How one goal goes. The first end is the end.

    Args:
        now_s: when it was accepted, by the clock of :meth:`watch`.

    Attributes:
        end: None while it is in work.
        is_set: the world model was told to seek it, which is to be noted here. Futures before are about what
            was sought until then, which may bear the same stamp.
        replaced: it ended because somebody else set another goal.
        energy, best_energy: to the goal, now and at best; NaN: not known.
        steps: of the model, by the stamps of the images; where their clock jumped, none.
        duration_s: since it was accepted.
    """

    def __init__(self, terms: GoalConfig, *, now_s: float) -> None:
        self.terms = terms
        self.end: End | None = None
        self.is_set = False
        self.replaced = False
        self._ended = threading.Event()
        self.energy = self.best_energy = math.nan
        self.steps = 0
        self.duration_s = 0.0
        self._began_s = now_s
        self._newest_ns: int | None = None
        self._passed_ns = 0
        self._stuck_count = 0

    @property
    def taken(self) -> bool:
        """Whether futures to this goal have come."""
        return self._newest_ns is not None

    def finish(self, outcome: Outcome, reason: str) -> bool:
        """End it; False: it had ended before."""
        if self.end is not None:
            return False
        self.end = End(outcome, reason)
        self._ended.set()
        return True

    def wait(self) -> End:
        """Wait on another thread for its end."""
        self._ended.wait()
        if self.end is None:
            raise RuntimeError("a goal must have an end when it has ended")
        return self.end

    def concerns(self, goal_ns: int | None) -> bool:
        """Whether futures to this goal (None: to none) are about it. It ends where they no longer are."""
        if not self.is_set:
            return False
        if goal_ns == self.terms.goal_ns:
            return True
        if self.taken:
            self.replaced = goal_ns is not None
            self.finish(
                Outcome.ABORTED, "another goal was set" if self.replaced else "the goal was taken back"
            )
        return False

    def follow(self, *, stamp_ns: int, step_ns: int, energy: float, stuck_count: int, reached: bool) -> None:
        """What came of an image.

        Args:
            energy: of the image to the goal.
            stuck_count: how often the robot was stuck, of any goal.
            reached: it is there.
        """
        if self._newest_ns is None:
            self._stuck_count = stuck_count
        elif 0 < stamp_ns - self._newest_ns <= self.terms.patience_s * 1e9:
            self._passed_ns += stamp_ns - self._newest_ns
        self._newest_ns = stamp_ns
        self.energy = energy
        self.steps = self._passed_ns // step_ns
        best = math.inf if math.isnan(self.best_energy) else self.best_energy
        if energy < PROGRESS * best:
            self._stuck_count = stuck_count
        if energy < best:
            self.best_energy = energy
        tries = stuck_count - self._stuck_count
        if reached:
            self.finish(Outcome.REACHED, f"the energy is {energy:.4g}")
        elif tries >= self.terms.give_up_after:
            self.finish(
                Outcome.STUCK,
                f"it came no nearer than {self.best_energy:.4g} in {tries} attempts to plan anew",
            )

    def judged_anew(self) -> None:
        """Another model judges from now on: its energies do not compare with those before."""
        self.energy = self.best_energy = math.nan

    def watch(self, now_s: float, lasting: str) -> None:
        """Time goes by. ``lasting``: what has made the robot stand for longer than ``patience_s``; the time
        before the goal was accepted does not count."""
        self.duration_s = now_s - self._began_s
        terms = self.terms
        was_patient = self.duration_s > terms.patience_s
        if terms.timeout_s is not None and self.duration_s > terms.timeout_s:
            self.finish(Outcome.TIMEOUT, f"it was not reached within {terms.timeout_s:g} s")
        elif was_patient and lasting:
            self.finish(Outcome.ABORTED, lasting)
        elif was_patient and not self.taken:
            self.finish(
                Outcome.ABORTED, f"no futures to this goal came within {terms.patience_s:g} s: is it served?"
            )
