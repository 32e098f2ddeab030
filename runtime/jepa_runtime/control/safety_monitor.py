"""What must make the robot stand, and for how long it has been so. Decided without ROS, clocks passed in."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum

from jepa_runtime.control.motion_check import MotionCheck
from jepa_runtime.telemetry.diagnostics import Level, Verdict


class StopCause(Enum):
    """Why the robot stands, the gravest first, and last what others explain.

    Attributes:
        level: of the diagnostics while it lasts.
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

    def __init__(self, label: str, level: Level) -> None:
        self.label = label
        self.level = level


# Of these only a decision that may be obeyed shows that they are over: until then it is tried again.
TRIED_AGAIN = frozenset({StopCause.FAULT, StopCause.FORBIDDEN, StopCause.UNANSWERED})
# What images show, or do not, of the world. A robot that stands learns nothing about them: it is let go on
# probation, and only so many times before its motion was confirmed.
_PROBATION = frozenset({StopCause.CAMERAS, StopCause.FROZEN, StopCause.DISCONTINUOUS, StopCause.SURPRISE})
_ATTEMPTS = 1
# Shown motion after which earlier holds no longer count, as a multiple of what makes the robot stand: a
# camera that hangs every other half second shows less.
_FORGOTTEN_AFTER = 3.0
_RETRY_AFTER_S = 1.0
# Motion that is unconfirmed may last a few steps of the model: an image shows the motion of the step before.
_LIMIT_STEPS, _ALLOWANCE_STEPS = 4.0, 1.25
# Images with which each new one is compared, and how many of those within the window may be repeated.
_REMEMBERED = 32
_MOST_REPEATED = 1 / 3
# One wrong image is two discontinuities: to it, and back.
_DISCONTINUITIES = 4
# Resets of the history that say nothing about the images.
_PLAIN_RESETS = frozenset({"", "first", "model"})


class SafetyMonitor:
    """Holds the robot while there is a reason to.

    Args:
        surprise_window_s: how far back the proportions of surprising and of discontinuous images reach.
        surprise_ratio: proportion of images that surprise the model above which the robot is held; 1: never.
        frozen_after_s: the robot is held when the images do not show its motion for so long, in seconds at
            full effort, but for at least four steps of the model; 0: never.
        clock: monotonic seconds.

    Attributes:
        holds: the reasons that there are now, in words.
        counts: how often each began.
        motion: what of the commanded motion is confirmed.
        step_s: of the model.
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
        # When images were judged, and whether each was surprising; when images came while the robot moved,
        # and whether each was a repeated one; when discontinuities came.
        self._surprises: deque[tuple[float, bool]] = deque()
        self._repeats: deque[tuple[float, bool]] = deque()
        self._discontinuities: deque[float] = deque()
        self._energies: deque[float] = deque(maxlen=_REMEMBERED)
        self._is_repeated = False
        # How often the robot was held for what images show since its motion was last confirmed, when that
        # was last, and since when it was held for any reason.
        self._attempts, self._blind_since_s = 0, 0.0
        self._since_s: float | None = None

    @property
    def blocks(self) -> bool:
        """Whether nothing is to be tried."""
        return bool(self.holds.keys() - TRIED_AGAIN)

    @property
    def doubts_motion(self) -> bool:
        """Whether the robot is held since it did not move as the model predicts of what it was commanded."""
        return bool(self.holds.keys() & {StopCause.FROZEN, StopCause.SURPRISE})

    @property
    def unconfirmed(self) -> float:
        """Commanded motion that the images do not show, as a proportion of what makes the robot stand."""
        return self.motion.total_s / self._limit_s if self._frozen_after_s else 0.0

    @property
    def why(self) -> str:
        """The gravest reason; empty: there is none."""
        return next((self.holds[cause] for cause in StopCause if cause in self.holds), "")

    def hold(self, cause: StopCause, why: str) -> None:
        """There is a reason to stand; its words may change while it lasts."""
        begins = cause not in self.holds
        self.counts[cause.label] += begins
        if begins and cause in _PROBATION:
            self._attempts += not self.holds.keys() & _PROBATION
            self._blind_since_s = self._clock()
        self.holds[cause] = why
        if self._since_s is None:
            self._since_s = self._clock()

    def release(self, *causes: StopCause) -> None:
        """These are over, if they were."""
        for cause in causes:
            self.holds.pop(cause, None)

    def obeyed(self) -> None:
        """The robot does as decided: what was tried again is over. Holds for what images show count as one
        until enough of its motion was confirmed."""
        self.release(*TRIED_AGAIN)
        if not self._attempts:
            self._since_s = None

    def trust(self) -> None:
        """Somebody wants the robot to drive, by a new goal or by word: one more attempt."""
        if self._attempts:
            self._attempts = _ATTEMPTS
            self._let_go(StopCause.FROZEN, StopCause.DISCONTINUOUS, StopCause.SURPRISE)

    def image(self, energy: float, *, history_reset: str = "", publishers: int = 0) -> None:
        """An image came, of this ``energy``; see jepa_msgs/PredictedFutures. Of two images of a live camera
        it is never the same to the bit."""
        now_s = self._clock()
        self._is_repeated = not math.isnan(energy) and energy in self._energies
        self._energies.append(energy)
        if self.motion.is_moving:
            self._repeats.append((now_s, self._is_repeated))
        if history_reset not in _PLAIN_RESETS:
            self._discontinuities.append(now_s)
        if publishers > 1:
            self.hold(
                StopCause.CAMERAS,
                f"the image topic has {publishers} publishers: which is the camera?",
            )
        elif StopCause.CAMERAS in self.holds:
            self._let_go(StopCause.CAMERAS)
        self._look_back(now_s)
        self.watch()

    def judged(
        self,
        surprising: bool,
        *,
        effort: float | None = None,
        response: float = math.nan,
        discontinuous: bool = False,
    ) -> None:
        """The newest image was compared with what the model had predicted of it; see jepa_msgs/Surprise.
        ``effort``: of the actions that were executed; None: not known."""
        now_s = self._clock()
        self._surprises.append((now_s, surprising))
        if discontinuous:
            self._discontinuities.append(now_s)
        # An image that came before confirms nothing.
        shown = min(response, 0.0) if self._is_repeated else response
        is_held = self.holds.keys() & _PROBATION
        is_confirmed = effort is not None and self.motion.observe(effort, shown)
        if is_confirmed and not is_held and self.motion.shown_s >= _FORGOTTEN_AFTER * self._limit_s:
            self._attempts = 0
        self._look_back(now_s)
        self.watch()

    def watch(self) -> None:
        """Time goes by: notice motion that is not confirmed."""
        unconfirmed_s = self.motion.total_s
        if self._frozen_after_s and unconfirmed_s > self._limit_s and StopCause.FROZEN not in self.holds:
            self.hold(
                StopCause.FROZEN,
                f"the images do not show {unconfirmed_s:.1f} s of commanded motion: does the camera hang, or "
                "is the robot blocked (frozen_after_s)?",
            )

    @property
    def _limit_s(self) -> float:
        return max(self._frozen_after_s, _LIMIT_STEPS * self.step_s)

    def _look_back(self, now_s: float) -> None:
        """Hold for what the images of the last seconds were, or let go."""
        surprises, repeats = (
            _proportion(each, now_s, window_s)
            for each, window_s in ((self._surprises, self._window_s), (self._repeats, self._limit_s))
        )
        while self._discontinuities and self._discontinuities[0] < now_s - self._window_s:
            self._discontinuities.popleft()
        if self._frozen_after_s and repeats > _MOST_REPEATED:
            self.hold(
                StopCause.FROZEN,
                f"{repeats:.0%} of the images while it moved repeat earlier ones to the bit: does the camera "
                "hang, or has it no noise (frozen_after_s)?",
            )
        if len(self._discontinuities) >= _DISCONTINUITIES:
            self.hold(
                StopCause.DISCONTINUOUS,
                f"{len(self._discontinuities)} images within {self._window_s:g} s do not follow on those "
                "before: do several cameras send, or do stamps go back?",
            )
        if surprises > self._ratio:
            self.hold(
                StopCause.SURPRISE,
                f"{surprises:.0%} of the images within {self._window_s:g} s surprised the model",
            )
        if self._attempts > _ATTEMPTS:
            return
        if now_s - self._blind_since_s > _RETRY_AFTER_S:
            over = {
                StopCause.FROZEN: True,
                StopCause.DISCONTINUOUS: not self._discontinuities,
                StopCause.SURPRISE: surprises <= self._ratio / 2,
            }
            self._let_go(*(cause for cause, is_over in over.items() if is_over))

    def _let_go(self, *causes: StopCause) -> None:
        """These are over; what the robot does then is to be confirmed soon."""
        if self.holds.keys() & set(causes):
            self.release(*causes)
            self._repeats.clear()
            allowance_s = max(_ALLOWANCE_STEPS * self.step_s, self._frozen_after_s / 4)
            self.motion.begin_probation(allowance_s, self._limit_s)

    def lasting(self, longer_than_s: float) -> str:
        """The gravest reason, if the robot has stood for so long; empty: it has not, or there is none now.
        Reasons that come and go, and between which it never does as decided, are one."""
        since_s = self._since_s
        return self.why if since_s is not None and self._clock() - since_s > longer_than_s else ""

    def verdict(self, otherwise: Verdict) -> Verdict:
        """For the diagnostics; ``otherwise`` where there is no reason to stand."""
        for cause in StopCause:
            if cause in self.holds:
                return Verdict(cause.level, f"the robot stands: {self.holds[cause]}")
        return otherwise


def _proportion(marks: deque[tuple[float, bool]], now_s: float, window_s: float) -> float:
    """Proportion of the moments within the window that are marked; 0 while they do not fill it. Those before
    are dropped, but for the last."""
    begins_s = now_s - window_s
    while len(marks) > 1 and marks[1][0] < begins_s:
        marks.popleft()
    if not marks or not begins_s - window_s <= marks[0][0] <= begins_s:
        return 0.0
    return sum(marked for _, marked in marks) / len(marks)
