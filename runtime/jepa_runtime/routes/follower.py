"""Follows a route: which goal the robot drives to next, and how the drive ends.

The follower only chooses goals. Whether and how the robot moves is decided by the controller and its safety
monitor, see :mod:`jepa_runtime.control`. Without ROS; the caller passes the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control import StopCause
from jepa_runtime.routes.localizer import Place
from jepa_runtime.routes.route import Floats, Route
from jepa_runtime.util.compat import StrEnum

# An advance of this many key frames is progress; after this many, earlier attempts no longer count.
_PROGRESS, _FORGIVEN_AFTER = 0.5, 3.0
# A place this many key frames from the last certain one is still the same surroundings.
_SAME_PLACE = 4
# Probability, given that the robot is on the route, above which only one place is likely.
_DISTINCT = 0.8
# The images show a person in the way or a changed place; or no motion. Others end the drive as aborted.
_CHANGED_CAUSES = frozenset({StopCause.SURPRISE, StopCause.DISCONTINUOUS})
_BLOCKED_CAUSES = frozenset({StopCause.FROZEN})
_RETRIED_CAUSES = _CHANGED_CAUSES | _BLOCKED_CAUSES


class FollowerState(StrEnum):
    """State of a follower, as in jepa_msgs/action/RepeatRoute."""

    LOCALIZING = "localizing"
    FOLLOWING = "following"
    WAITING = "waiting"
    ENDED = "ended"


class RouteOutcome(StrEnum):
    """Outcome of repeating a route, as in jepa_msgs/action/RepeatRoute."""

    REACHED = "reached"
    LOST = "lost"
    BLOCKED = "blocked"
    CHANGED = "changed"
    CANCELED = "canceled"
    ABORTED = "aborted"


@dataclass(frozen=True)
class RouteResult:
    """How repeating a route ended, and why."""

    outcome: RouteOutcome
    reason: str


@dataclass(frozen=True)
class SubGoal:
    """The goal that the robot drives to.

    Attributes:
        index: Its key frame.
        latent: Latent [T, D] of that key frame.
        is_last: It is the end of the route, at which the robot stops.
    """

    index: int
    latent: Floats
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class RobotStatus:
    """What the robot does.

    Attributes:
        is_driving: Its commands ask for motion.
        reached: The controller reports that the goal of the follower is reached.
        cause: Why the safety monitor holds it; None: it does not.
        reason: The reason in words.
    """

    is_driving: bool = False
    reached: bool = False
    cause: StopCause | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class FollowerConfig:
    """Settings of the follower.

    Attributes:
        lookahead_s: How far ahead the goal is, in time of the taught drive; at least one key frame.
        lookahead_m: The same as travel, see :func:`~jepa_runtime.util.poses.travel_m`, if the route has
            odometry: the nearer one counts.
        min_confidence: Confidence in the place below which the robot waits.
        unsure_after_s: Time with less confidence before it waits.
        lost_after_s: Time without confidence after which the drive ends.
        blocked_after_s: Time of commanded motion without progress before it waits.
        wait_s: Time for which it waits before it tries again.
        attempts: Further attempts without progress before the drive ends.

    Raises:
        ValueError: A value is out of range.
    """

    lookahead_s: float = 1.5
    lookahead_m: float = 0.5
    min_confidence: float = 0.5
    unsure_after_s: float = 0.5
    lost_after_s: float = 5.0
    blocked_after_s: float = 4.0
    wait_s: float = 3.0
    attempts: int = 2

    def __post_init__(self) -> None:
        times = self.lookahead_s, self.unsure_after_s, self.lost_after_s, self.blocked_after_s, self.wait_s
        if not all(0 < value < math.inf for value in (*times, self.lookahead_m)):
            raise ValueError(
                "times and lookahead_m must be positive, got "
                f"{', '.join(f'{value:g}' for value in (*times, self.lookahead_m))}"
            )
        if not 0 < self.min_confidence < 1 or self.attempts < 0:
            raise ValueError("min_confidence must be between 0 and 1, and attempts not negative")


class RouteFollower:
    """Chooses goals along a route from the place of each image.

    Args:
        route: The route.
        config: Settings.

    Attributes:
        state: What the follower does.
        goal: The goal; None: the robot must stand.
        result: How the drive ended; None: it is in progress.
        reason: Why the robot waits; empty: it does not.
        stops: Places, as fractions of the route, and reasons of all waits so far.
    """

    def __init__(self, route: Route, config: FollowerConfig | None = None) -> None:
        self._route = route
        self._config = FollowerConfig() if config is None else config
        self.state = FollowerState.LOCALIZING
        self.goal: SubGoal | None = None
        self.result: RouteResult | None = None
        self.reason = ""
        self.stops: list[tuple[float, str]] = []
        self._now_s: float | None = None
        # Since when the place is uncertain, and since when the robot waits.
        self._unsure_since_s: float | None = None
        self._waiting_since_s = 0.0
        # The last certain place; the furthest one, commanded motion since then, and the one at the last wait.
        self._certain: Place | None = None
        self._furthest, self._driven_s, self._waited_at = -math.inf, 0.0, -math.inf
        self._attempts = 0
        self._outcome_of_wait = RouteOutcome.LOST

    def end(self, outcome: RouteOutcome, reason: str) -> None:
        """End the drive, unless it has ended."""
        if self.result is None:
            self.result = RouteResult(outcome, reason)
            self.state, self.goal = FollowerState.ENDED, None

    def update(self, place: Place, status: RobotStatus, *, now_s: float) -> SubGoal | None:
        """Process the place of a new image; return the goal, or None if the robot must stand.

        Args:
            place: Where the robot is.
            status: What it does.
            now_s: The time, by a monotonic clock.
        """
        if self.result is not None:
            return None
        elapsed_s = 0.0 if self._now_s is None else max(now_s - self._now_s, 0.0)
        self._now_s = now_s
        is_certain = place.confidence >= self._config.min_confidence
        if is_certain:
            self._unsure_since_s, self._certain = None, place
        elif self._unsure_since_s is None:
            self._unsure_since_s = now_s
        if status.cause is not None and status.cause not in _RETRIED_CAUSES:
            # The controller stops the robot, and aborts the goal if the cause lasts.
            return self.goal
        if self.state is FollowerState.LOCALIZING:
            self._localize(place, is_certain, now_s)
        elif self.state is FollowerState.WAITING:
            self._wait(place, is_certain, now_s)
        else:
            self._follow(place, status, elapsed_s, now_s)
        return self.goal

    def _localize(self, place: Place, is_certain: bool, now_s: float) -> None:
        if is_certain:
            self._begin(place)
        elif self._unsure_for(now_s) > self._config.lost_after_s:
            self.end(
                RouteOutcome.LOST,
                f"no place of the route is likely (confidence {place.confidence:.2f}): start on the route",
            )

    def _follow(self, place: Place, status: RobotStatus, elapsed_s: float, now_s: float) -> None:
        if status.reached and self.goal is not None and self.goal.is_last:
            self.end(RouteOutcome.REACHED, "the end of the route is reached")
            return
        if status.cause is not None:
            outcome = RouteOutcome.CHANGED if status.cause in _CHANGED_CAUSES else RouteOutcome.BLOCKED
            self._pause(outcome, status.reason, place, now_s)
            return
        if self._unsure_for(now_s) > self._config.unsure_after_s:
            self._pause(
                RouteOutcome.LOST, f"the place is uncertain (confidence {place.confidence:.2f})", place, now_s
            )
            return
        self._driven_s += elapsed_s * status.is_driving
        is_elsewhere = place.index < self._furthest - _SAME_PLACE
        if place.index > self._furthest + _PROGRESS or is_elsewhere:
            self._furthest, self._driven_s = place.index, 0.0
            if is_elsewhere:
                self.goal = None
            if abs(place.index - self._waited_at) > _FORGIVEN_AFTER:
                self._attempts = 0
        if self._driven_s > self._config.blocked_after_s:
            reason = f"no progress in {self._driven_s:.1f} s of driving"
            self._pause(self._obstacle(place), reason, place, now_s)
            return
        self.goal = self._next_goal(place, status)

    def _wait(self, place: Place, is_certain: bool, now_s: float) -> None:
        if not is_certain:
            if now_s - self._waiting_since_s > self._config.lost_after_s:
                self._give_up(place)
        elif now_s - self._waiting_since_s > self._config.wait_s:
            if self._attempts >= self._config.attempts:
                self._give_up(place)
                return
            self._attempts += 1
            self._begin(place)

    def _begin(self, place: Place) -> None:
        self.state, self.reason = FollowerState.FOLLOWING, ""
        self._furthest, self._driven_s = place.index, 0.0
        self.goal = self._next_goal(place, RobotStatus())

    def _pause(self, outcome: RouteOutcome, reason: str, place: Place, now_s: float) -> None:
        self.state, self.goal, self.reason = FollowerState.WAITING, None, reason
        self._outcome_of_wait, self._waiting_since_s, self._waited_at = outcome, now_s, place.index
        self.stops.append((place.progress, reason))

    def _give_up(self, place: Place) -> None:
        outcome, certain = self._outcome_of_wait, self._certain
        if certain is not None and outcome is RouteOutcome.LOST:
            is_seen = place.contrast >= _DISTINCT and abs(place.key_frame - certain.key_frame) <= _SAME_PLACE
            if is_seen or place.is_tracked:
                # By its images or its odometry, the robot is still there: the place does not look as it did.
                outcome, place = RouteOutcome.CHANGED, place if is_seen else certain
        self.end(outcome, f"{self.reason}; gave up at {place.progress:.0%} of the route")

    def _obstacle(self, place: Place) -> RouteOutcome:
        """Return whether a robot without progress is blocked, or its surroundings have changed."""
        limit = (self._route.near_energy + self._route.lost_energy) / 2
        return RouteOutcome.CHANGED if place.energy > limit else RouteOutcome.BLOCKED

    def _next_goal(self, place: Place, status: RobotStatus) -> SubGoal:
        route = self._route
        last = len(route) - 1
        ahead = _ahead(route.times_s, place, self._config.lookahead_s)
        if route.traveled_m is not None:
            ahead = min(ahead, _ahead(route.traveled_m, place, self._config.lookahead_m))
        index = max(ahead, place.key_frame + 1)
        if self.goal is not None:
            # Goals do not move back along the route.
            index = max(index, self.goal.index + status.reached)
        index = min(index, last)
        if self.goal is not None and self.goal.index == index:
            return self.goal
        return SubGoal(index, route.key_frames[index].latent, index == last)

    def _unsure_for(self, now_s: float) -> float:
        return 0.0 if self._unsure_since_s is None else now_s - self._unsure_since_s


def _ahead(along: NDArray[np.float64], place: Place, distance: float) -> int:
    """Return the first key frame ``distance`` ahead of a place; ``along`` [N] is where each one is."""
    here = float(np.interp(place.index, np.arange(len(along)), along))
    return int(np.searchsorted(along, here + distance))
