"""When the robot must stand, and how long it has been stopped. Without ROS; the caller passes the clock."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum

from jepa_runtime.control.motion_check import MotionCheck
from jepa_runtime.telemetry.diagnostics import Level, Verdict


class StopCause(Enum):
    """Why the robot is stopped, most serious first; causes that others explain come last.

    Attributes:
        label: Key in counters and diagnostics.
        level: Level of the diagnostics while it lasts.
    """

    MODEL = "model", Level.ERROR
    FAULT = "fault", Level.ERROR
    FORBIDDEN = "forbidden", Level.ERROR
    CAMERAS = "cameras", Level.ERROR
    FROZEN = "frozen", Level.ERROR
    DISCONTINUOUS = "discontinuous", Level.ERROR
    STOPPED = "stopped", Level.WARN
    SURPRISE = "surprise", Level.WARN
    OLD = "old", Level.WARN
    STALE = "stale", Level.STALE
    UNANSWERED = "unanswered", Level.WARN
    NO_POSE = "no_pose", Level.WARN

    def __init__(self, label: str, level: Level) -> None:
        self.label = label
        self.level = level


# Only a decision that may be executed shows that these are over. Until then the planner tries again.
RETRIED = frozenset({StopCause.FAULT, StopCause.FORBIDDEN, StopCause.UNANSWERED, StopCause.NO_POSE})
# Causes in the images. A robot that stands learns nothing about them: it is released on probation, and only
# this many times before its motion was confirmed.
_PROBATION = frozenset({StopCause.CAMERAS, StopCause.FROZEN, StopCause.DISCONTINUOUS, StopCause.SURPRISE})
_MAX_ATTEMPTS = 1
# Shown motion after which earlier holds no longer count, as a multiple of the stop limit: a camera that
# freezes every other half second shows less.
_FORGIVEN_AFTER = 3.0
_RETRY_AFTER_S = 1.0
# Model steps for which motion may be unconfirmed: an image shows the motion of the previous step.
_LIMIT_STEPS, _ALLOWANCE_STEPS = 4.0, 1.25
# Number of images with which each new one is compared, and the largest proportion of repeats in the window.
_COMPARED_IMAGES = 32
_MAX_REPEATED = 1 / 3
# One wrong image causes two discontinuities: to it and back.
_MAX_DISCONTINUITIES = 4
# Resets of the history that say nothing about the images.
_HARMLESS_RESETS = frozenset({"", "first", "model"})


class SafetyMonitor:
    """Holds the robot while there is a cause.

    Args:
        surprise_window_s: Window over which surprising and discontinuous images are counted.
        surprise_ratio: Proportion of surprising images above which the robot is held; 1: never.
        frozen_after_s: Commanded motion that the images may fail to show before the robot is held, in seconds
            at full effort, but at least four model steps; 0: the check is off.
        clock: Monotonic seconds.

    Attributes:
        holds: The causes in force, with their reasons.
        counts: How often each cause began.
        motion: The commanded motion and its confirmation.
        step_s: Duration of a model step.
    """

    def __init__(
        self,
        *,
        surprise_window_s: float,
        surprise_ratio: float,
        clock: Callable[[], float],
        frozen_after_s: float = 0.0,
    ) -> None:
        self.holds: dict[StopCause, str] = {}
        self.counts: Counter[str] = Counter()
        self.motion = MotionCheck(clock)
        self.step_s = 0.0
        self._window_s, self._ratio = surprise_window_s, surprise_ratio
        self._frozen_after_s = frozen_after_s
        self._clock = clock
        # Time of each comparison with a prediction, and whether it was surprising; time of each image while
        # the robot moved, and whether it was a repeat; times of discontinuities.
        self._surprises: deque[tuple[float, bool]] = deque()
        self._repeats: deque[tuple[float, bool]] = deque()
        self._discontinuities: deque[float] = deque()
        self._energies: deque[float] = deque(maxlen=_COMPARED_IMAGES)
        self._is_repeated = False
        # Holds by causes in the images since motion was last confirmed, the time of the last one, and since
        # when the robot has been held for any cause.
        self._attempts, self._image_hold_s = 0, 0.0
        self._held_since_s: float | None = None

    @property
    def blocks_planning(self) -> bool:
        """Whether there is a cause other than those that are retried."""
        return bool(self.holds.keys() - RETRIED)

    @property
    def doubts_motion(self) -> bool:
        """Whether the robot is held because it did not move as the model predicts."""
        return bool(self.holds.keys() & {StopCause.FROZEN, StopCause.SURPRISE})

    @property
    def unconfirmed_ratio(self) -> float:
        """Commanded motion that the images do not show, as a proportion of the stop limit."""
        return self.motion.total_s / self._limit_s if self._frozen_after_s else 0.0

    @property
    def cause(self) -> StopCause | None:
        """The most serious cause; None: there is none."""
        return next((cause for cause in StopCause if cause in self.holds), None)

    @property
    def reason(self) -> str:
        """Reason of the most serious cause; empty: there is none."""
        return "" if self.cause is None else self.holds[self.cause]

    def hold(self, cause: StopCause, reason: str) -> None:
        """Hold the robot for ``cause``; its reason may change while it lasts."""
        begins = cause not in self.holds
        self.counts[cause.label] += begins
        if begins and cause in _PROBATION:
            self._attempts += not self.holds.keys() & _PROBATION
            self._image_hold_s = self._clock()
        self.holds[cause] = reason
        if self._held_since_s is None:
            self._held_since_s = self._clock()

    def release(self, *causes: StopCause) -> None:
        """Remove these causes."""
        for cause in causes:
            self.holds.pop(cause, None)

    def decision_executed(self) -> None:
        """Note that the robot executes the decision: the causes that are retried are over.

        Holds by causes in the images count as one until enough motion was confirmed.
        """
        self.release(*RETRIED)
        if not self._attempts:
            self._held_since_s = None

    def allow_retry(self) -> None:
        """Allow one more attempt, since a new goal or a message asks the robot to drive."""
        if self._attempts:
            self._attempts = _MAX_ATTEMPTS
            self._release_on_probation(StopCause.FROZEN, StopCause.DISCONTINUOUS, StopCause.SURPRISE)

    def add_image(self, energy: float, *, history_reset: str = "", publishers: int = 0) -> None:
        """Add an image.

        Args:
            energy: Its energy to the goal. Images of a live camera never have exactly the same.
            history_reset: Why the history was reset with it; empty: it was not.
            publishers: Number of publishers of the image topic; 0: unknown.
        """
        now_s = self._clock()
        self._is_repeated = not math.isnan(energy) and energy in self._energies
        self._energies.append(energy)
        if self.motion.is_moving:
            self._repeats.append((now_s, self._is_repeated))
        if history_reset not in _HARMLESS_RESETS:
            self._discontinuities.append(now_s)
        if publishers > 1:
            self.hold(
                StopCause.CAMERAS,
                f"the image topic has {publishers} publishers: keep one camera and stop the others",
            )
        elif StopCause.CAMERAS in self.holds:
            self._release_on_probation(StopCause.CAMERAS)
        self._check_images(now_s)
        self.check_motion()

    def add_surprise(
        self,
        surprising: bool,
        *,
        effort: float | None = None,
        response: float = math.nan,
        discontinuous: bool = False,
    ) -> None:
        """Add the comparison of the newest image with its prediction.

        Args:
            surprising: The prediction error exceeds the model's threshold.
            effort: Effort of the executed actions; None: unknown.
            response: Proportion of the predicted change that the image shows; see jepa_msgs/Surprise.
            discontinuous: The image does not continue the previous one.
        """
        now_s = self._clock()
        self._surprises.append((now_s, surprising))
        if discontinuous:
            self._discontinuities.append(now_s)
        # A repeated image confirms nothing.
        shown = min(response, 0.0) if self._is_repeated else response
        is_held = self.holds.keys() & _PROBATION
        is_confirmed = effort is not None and self.motion.observe(effort, shown, step_s=self.step_s)
        if is_confirmed and not is_held and self.motion.shown_s >= _FORGIVEN_AFTER * self._limit_s:
            self._attempts = 0
        self._check_images(now_s)
        self.check_motion()

    def check_motion(self) -> None:
        """Hold the robot if too much motion is unconfirmed."""
        unconfirmed_s = self.motion.total_s
        if self._frozen_after_s and unconfirmed_s > self._limit_s and StopCause.FROZEN not in self.holds:
            self.hold(
                StopCause.FROZEN,
                f"the images do not show {unconfirmed_s:.1f} s of commanded motion: the camera is frozen or "
                "the robot is blocked (frozen_after_s)",
            )

    def held_longer_than(self, duration_s: float) -> str:
        """Return the reason if the robot has been held for longer than this; else an empty string.

        Causes between which no decision was executed count as one.
        """
        since_s = self._held_since_s
        return self.reason if since_s is not None and self._clock() - since_s > duration_s else ""

    def verdict(self, otherwise: Verdict) -> Verdict:
        """Return the verdict for the diagnostics; ``otherwise`` if there is no cause."""
        for cause in StopCause:
            if cause in self.holds:
                return Verdict(cause.level, f"robot stopped: {self.holds[cause]}")
        return otherwise

    @property
    def _limit_s(self) -> float:
        return max(self._frozen_after_s, _LIMIT_STEPS * self.step_s)

    def _check_images(self, now_s: float) -> None:
        """Hold or release the robot for what the images of the last seconds show."""
        surprises, repeats = (
            _marked_proportion(events, now_s, window_s)
            for events, window_s in ((self._surprises, self._window_s), (self._repeats, self._limit_s))
        )
        while self._discontinuities and self._discontinuities[0] < now_s - self._window_s:
            self._discontinuities.popleft()
        if self._frozen_after_s and repeats > _MAX_REPEATED:
            self.hold(
                StopCause.FROZEN,
                f"{repeats:.0%} of the images during motion repeat earlier ones exactly: the camera is "
                "frozen or has no noise (frozen_after_s)",
            )
        if len(self._discontinuities) >= _MAX_DISCONTINUITIES:
            self.hold(
                StopCause.DISCONTINUOUS,
                f"{len(self._discontinuities)} images within {self._window_s:g} s do not continue the "
                "previous ones: several cameras publish, or stamps go back",
            )
        if surprises > self._ratio:
            self.hold(
                StopCause.SURPRISE,
                f"{surprises:.0%} of the images within {self._window_s:g} s surprised the model",
            )
        if self._attempts > _MAX_ATTEMPTS:
            return
        if now_s - self._image_hold_s > _RETRY_AFTER_S:
            is_over = {
                StopCause.FROZEN: True,
                StopCause.DISCONTINUOUS: not self._discontinuities,
                StopCause.SURPRISE: surprises <= self._ratio / 2,
            }
            self._release_on_probation(*(cause for cause, over in is_over.items() if over))

    def _release_on_probation(self, *causes: StopCause) -> None:
        """Remove these causes; the motion that follows must be confirmed soon."""
        if self.holds.keys() & set(causes):
            self.release(*causes)
            self._repeats.clear()
            allowance_s = max(_ALLOWANCE_STEPS * self.step_s, self._frozen_after_s / 4)
            self.motion.begin_probation(allowance_s, self._limit_s)


def _marked_proportion(events: deque[tuple[float, bool]], now_s: float, window_s: float) -> float:
    """Return the proportion of marked events in the window; 0 until the window is filled.

    Earlier events are dropped, except for the last one.
    """
    begins_s = now_s - window_s
    while len(events) > 1 and events[1][0] < begins_s:
        events.popleft()
    if not events or not begins_s - window_s <= events[0][0] <= begins_s:
        return 0.0
    return sum(marked for _, marked in events) / len(events)
