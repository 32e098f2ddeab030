"""From futures to commands, within all that makes a robot safe: the seeker plans, the guard holds, and a
goal that was asked for is followed to its end. Decided without ROS, clocks passed in; not for several threads
at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.goal_tracker import GoalTracker, Outcome
from jepa_runtime.control.latched_goal import LatchedGoal
from jepa_runtime.control.receding_horizon import Decision, Futures, RecedingHorizonPlanner, State
from jepa_runtime.control.safety_monitor import TRIED_AGAIN, SafetyMonitor, StopCause
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.telemetry.diagnostics import Level, Verdict

# States in which no command is wanted.
_AT_REST = (State.IDLE, State.REACHED)
# Unconfirmed motion, as a proportion of what makes the robot stand, after which its direction is avoided, and
# how much more there is before the next one is.
_BLOCKED, _BLOCKED_AGAIN = 0.4, 0.2


@dataclass(frozen=True, kw_only=True)
class ControllerModel:
    """What a model brings: who plans with it, the limits of its actions, its step and its goal threshold.

    Attributes:
        per_step: an action is a change within one step, of which one is told a step.
    """

    seeker: RecedingHorizonPlanner
    limits: ActionLimits
    step_s: float
    goal_threshold: float
    per_step: bool

    @classmethod
    def by_cem(
        cls,
        chosen: Mapping[str, Any],
        limits: ActionLimits,
        *,
        num_samples: int,
        horizon: int,
        step_s: float,
        goal_threshold: float,
        per_step: bool,
    ) -> ControllerModel:
        """One whose seeker searches by the cross-entropy method, with the parameters ``chosen`` of the
        planner."""
        topk = min(chosen["topk"], num_samples)
        search = CEM(
            CEMConfig(num_samples=num_samples, horizon=horizon, topk=topk),
            limits,
            seed=chosen["planner_seed"],
        )
        seeker = RecedingHorizonPlanner(
            search,
            step_s=step_s,
            goal_threshold=goal_threshold,
            reached_after=chosen["reached_after"],
            stuck_after_s=chosen["stuck_after_s"],
            recovery_s=chosen["recovery_s"],
            recovery_speed=chosen["recovery_speed"],
        )
        return cls(
            seeker=seeker, limits=limits, step_s=step_s, goal_threshold=goal_threshold, per_step=per_step
        )

    def approach(self, planned: NDArray[np.floating], passed_ns: int) -> NDArray[np.floating]:
        """What may be told on the way to the action ``planned`` [A], so long after the image before."""
        share = 1.0 if self.per_step else min(max(passed_ns / 1e9 / self.step_s, 0.0), 1.0)
        return self.limits.approach(planned, self.seeker.told, share)


class Controller:
    """Decides for every futures message whether the robot drives, and how.

    Args:
        guard: what makes the robot stand.
        timeout_s: futures, or their image, that are older make it stand, as does an image whose stamp is
            further ahead; may be set anew.
        goal_timeout_s: a goal that is latched is over after so long, reached or not; 0: never.
        stop_timeout_s: it is stopped when it has not heard for so long whether to stop; 0: the last word
            holds until the next.
        clock: monotonic seconds, the guard's.

    Attributes:
        reach: the goal in work that somebody asked for; None: there is none.
        state: of the last decision.
    """

    def __init__(
        self,
        guard: SafetyMonitor,
        *,
        timeout_s: float,
        clock: Callable[[], float],
        goal_timeout_s: float = 0.0,
        stop_timeout_s: float = 0.0,
    ) -> None:
        self.guard = guard
        self.timeout_s = timeout_s
        self.reach: GoalTracker | None = None
        self.state = State.IDLE
        self._clock = clock
        self._driver: ControllerModel | None = None
        # When the newest futures came, and when their image was new.
        self._futures_s = self._image_s = clock()
        # Whether the last decision is one that nothing stands against, and its plan is not forgotten.
        self._may_be_told = False
        # How much motion is unconfirmed when the direction in which the robot drives is next avoided.
        self._blocked_at = _BLOCKED
        # Stamp of the image before, and how long ago that was.
        self._stamp_ns = self._passed_ns = 0
        # What ended last, until another goal is sought: the world model may still have it, or take it late.
        self._left_ns: int | None = None
        self._latched = LatchedGoal(timeout_s=goal_timeout_s, clock=clock)
        self._stop_timeout_s = stop_timeout_s
        # When somebody said last whether to stop.
        self._heard_s = -math.inf

    @property
    def may_drive(self) -> bool:
        """Whether what the robot was told last may still hold."""
        return self._may_be_told and not self.guard.holds

    @property
    def iterations(self) -> int:
        """Of the search, with the present model."""
        return 0 if self._driver is None else self._driver.seeker.iterations

    def exchange(self, driver: ControllerModel | None, why: str = "") -> None:
        """Another model serves: the plan is forgotten. None: it cannot be driven with, and ``why``."""
        self._driver = driver
        self.guard.motion.command(0.0)
        self._latched.model_exchanged()
        if driver is None:
            self.guard.hold(StopCause.MODEL, why)
            return
        self.guard.release(StopCause.MODEL, *TRIED_AGAIN)
        self.guard.step_s = driver.step_s
        if self.reach is not None:
            self.reach.judged_anew()
        self._seek_as_asked()

    def begin(self, reach: GoalTracker) -> None:
        """Drive to a goal, once the futures are about it; what was driven to before no longer counts."""
        self.end(Outcome.ABORTED, "another goal took its place")
        self.guard.release(*TRIED_AGAIN)
        self.guard.trust()
        self.reach, self._left_ns = reach, None
        self._latched.another_is_asked()
        self._seek_as_asked()
        self._restart()
        if StopCause.STOPPED in self.guard.holds:
            self.end(Outcome.ABORTED, self.guard.holds[StopCause.STOPPED])

    def end(self, outcome: Outcome, reason: str) -> None:
        """Leave the goal in work, if there is one: the robot is to stand."""
        if self.reach is not None:
            self.reach.finish(outcome, reason)
            self._leave()

    def hear(self, stop: bool, *, now_ns: int) -> None:
        """Somebody says whether to stop, at ``now_ns`` by the clock of goals' stamps. All goals until the
        next ``False`` are over for good: the robot must not set out by itself then."""
        self.watch()
        self._heard_s = self._clock()
        if stop:
            self._stop("somebody has stopped it")
        elif StopCause.STOPPED in self.guard.holds:
            self.guard.release(StopCause.STOPPED)
            self.guard.trust()
            self._latched.released(now_ns)

    def update(self, futures: Futures, *, age_s: float) -> Decision:
        """Take in futures from an image of this age, and decide."""
        self._futures_s = self._image_s = self._clock()
        self._passed_ns, self._stamp_ns = futures.stamp_ns - self._stamp_ns, futures.stamp_ns
        self.guard.image(
            futures.current_energy,
            history_reset=futures.history_reset,
            publishers=futures.image_publishers,
        )
        self.guard.release(StopCause.STALE)
        if age_s > self.timeout_s:
            self.guard.hold(StopCause.OLD, f"the image was {age_s:.2f} s old when its futures came")
        elif age_s < -self.timeout_s:
            ahead = f"the image's stamp was {-age_s:.2f} s ahead of this clock: its age cannot be told"
            self.guard.hold(StopCause.OLD, ahead)
        else:
            self.guard.release(StopCause.OLD)
            self._image_s -= max(age_s, 0.0)
        if self._passed_ns > self.timeout_s * 1e9:
            # Nobody noticed so long a silence: time was set forward, and the plan is for another moment.
            self._restart()
        self.watch()
        self._avoid_block()
        now_ns = futures.stamp_ns + round(age_s * 1e9)
        decision = self._decide(self._without_past_goal(futures, now_ns))
        if self.reach is not None and self.reach.end is not None:
            self._leave()
            decision = Decision(decision.state, None, None)
        self.state = decision.state
        self._may_be_told = decision.command is not None or decision.state in _AT_REST
        return decision

    def judge(
        self,
        surprising: bool,
        *,
        executed: NDArray[np.floating],
        response: float = math.nan,
        discontinuous: bool = False,
    ) -> None:
        """The newest image was compared with its prediction; see jepa_msgs/Surprise."""
        driver = self._driver
        known = driver is not None and executed.shape == driver.limits.low.shape
        effort = driver.limits.effort(executed) if driver is not None and known else None
        self.guard.judged(surprising, effort=effort, response=response, discontinuous=discontinuous)

    def told(self, action: NDArray[np.floating]) -> None:
        """The robot is told ``action`` [A] from now on, as decided: where it changes only so fast, its plan
        goes on from there."""
        if self._driver is not None:
            self._driver.seeker.told = np.asarray(action, np.float32)
            self.guard.motion.command(self._driver.limits.effort(action))
        if self._may_be_told:
            self.guard.obeyed()

    def watch(self) -> None:
        """Time goes by: notice silence, and goals whose time is over."""
        now_s = self._clock()
        self.guard.watch()
        age_s = now_s - self._image_s
        if age_s > self.timeout_s:
            why = f"no futures for {now_s - self._futures_s:.2f} s"
            if self._image_s < self._futures_s:
                why += f", and the image of the last is {age_s:.2f} s old"
            self.guard.hold(StopCause.STALE, why)
            self._restart()
        if self._stop_timeout_s and now_s - self._heard_s > self._stop_timeout_s:
            self._stop(f"nobody has said within {self._stop_timeout_s:g} s that it is not to be stopped")
        if self._latched.is_out_of_time:
            self._latched.leave()
            if self._latched.is_over:
                self._restart()
        if self.reach is not None:
            lasting = self.guard.lasting(self.reach.terms.patience_s)
            self.reach.watch(self._clock(), lasting)
            if self.reach.end is not None:
                self._leave()

    def fail(self, error: Exception) -> None:
        """Something went wrong on the way to a decision."""
        self.guard.hold(StopCause.FAULT, f"{type(error).__name__}: {error}")
        self.state = State.HELD
        self._restart()

    def verdict(self) -> Verdict:
        """For the diagnostics."""
        level = Level.WARN if self.state is State.STUCK else Level.OK
        over = ": the latched goal is over, until there is a newer one" if self._latched.is_over else ""
        return self.guard.verdict(Verdict(level, self.state.name.lower() + over))

    def _decide(self, futures: Futures) -> Decision:
        if futures.goal_stamp_ns not in (None, self._left_ns):
            self._left_ns = None
        driver, reach = self._driver, self.reach
        if driver is None or self.guard.blocks:
            return self._held()
        others = futures.goal_asked if reach is None else not reach.concerns(futures.goal_stamp_ns)
        if self._left_ns is not None or others:
            self._restart()
            return Decision(State.IDLE, None, None)
        if futures.tell_nothing:
            self.guard.hold(StopCause.FAULT, "the energies to the goal are not finite")
            return self._held()
        decision = driver.seeker.update(futures)
        if decision.command is not None:
            forbidden = driver.limits.forbids(decision.command, driver.seeker.executed)
            if forbidden:
                self.guard.hold(StopCause.FORBIDDEN, forbidden)
                return self._held()
            decision = replace(decision, command=driver.approach(decision.command, self._passed_ns))
        elif decision.state is not State.REACHED and driver.seeker.is_unanswered:
            reason = (
                "no futures of the planner's candidates come within a step of the model "
                f"({driver.step_s:g} s) and five images: is it too slow, or given those of others?"
            )
            self.guard.hold(StopCause.UNANSWERED, reason)
            decision = replace(decision, state=State.HELD)
        if reach is not None:
            reach.follow(
                stamp_ns=futures.stamp_ns,
                step_ns=round(driver.step_s * 1e9),
                energy=futures.current_energy,
                stuck_count=driver.seeker.stuck_count,
                reached=decision.state is State.REACHED,
            )
        return decision

    def _without_past_goal(self, futures: Futures, now_ns: int) -> Futures:
        """``futures``, whose latched goal is noted, or left out where it is over."""
        waits = self.reach is not None and not self.reach.taken
        if self._latched.see(futures, now_ns=now_ns, another_waits=waits):
            self.guard.trust()
        return replace(futures, goal_stamp_ns=None) if self._latched.is_over else futures

    def _stop(self, why: str) -> None:
        self.guard.hold(StopCause.STOPPED, why)
        self.end(Outcome.ABORTED, why)
        self._latched.stopped()
        self._restart()

    def _avoid_block(self) -> None:
        """Try other directions before motion that images do not show makes the robot stand."""
        driver, unconfirmed = self._driver, self.guard.unconfirmed
        if driver is None:
            return
        if unconfirmed < _BLOCKED:
            self._blocked_at = _BLOCKED
            driver.seeker.confirm_motion()
        elif unconfirmed >= self._blocked_at and np.any(driver.seeker.told):
            driver.seeker.avoid(driver.seeker.told)
            self._blocked_at = unconfirmed + _BLOCKED_AGAIN

    def _held(self) -> Decision:
        self._restart()
        return Decision(State.HELD, None, None)

    def _restart(self) -> None:
        self._may_be_told = False
        self.guard.motion.command(0.0)
        if self._driver is not None:
            seeker = self._driver.seeker
            if self.guard.doubts_motion and self._blocked_at == _BLOCKED and np.any(seeker.told):
                seeker.avoid(seeker.told)
            seeker.restart()

    def _leave(self) -> None:
        """The goal in work has ended."""
        reach, self.reach = self.reach, None
        self._left_ns = None if reach is None else reach.terms.goal_ns
        self._seek_as_asked()
        self._restart()

    def _seek_as_asked(self) -> None:
        if self._driver is not None:
            asked = None if self.reach is None else self.reach.terms.threshold
            self._driver.seeker.goal_threshold = self._driver.goal_threshold if asked is None else asked
