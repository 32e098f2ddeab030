"""What must make the robot stand, and for how long it has been so. Decided without ROS, clocks passed in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from enum import Enum

from jepa_ros.diagnostics import Level, Verdict


class Cause(Enum):
    """Why the robot stands, the gravest first, and last what others explain.

    Attributes:
        level: of the diagnostics while it lasts.
    """

    MODEL = "model", Level.ERROR
    FAULT = "fault", Level.ERROR
    FORBIDDEN = "forbidden", Level.ERROR
    FROZEN = "frozen", Level.ERROR
    STOPPED = "stopped", Level.WARN
    SURPRISE = "surprise", Level.WARN
    OLD = "old", Level.WARN
    STALE = "stale", Level.STALE
    UNANSWERED = "unanswered", Level.WARN

    def __init__(self, label: str, level: Level) -> None:
        self.label = label
        self.level = level


# Of these only a decision that may be obeyed shows that they are over: until then it is tried again.
TRIED_AGAIN = frozenset({Cause.FAULT, Cause.FORBIDDEN, Cause.UNANSWERED})


class Guard:
    """Holds the robot while there is a reason to.

    Args:
        surprised_after: so many images in a row that surprised the model are a reason, until as many others
            came; 0: they never are.
        frozen_after_s: images that are the same while the robot is told to move for so long are a reason
            until another comes; 0: they never are.
        clock: monotonic seconds.

    Attributes:
        holds: the reasons that there are now, in words.
        counts: how often each began.
    """

    def __init__(
        self, *, surprised_after: int, clock: Callable[[], float], frozen_after_s: float = 0.0
    ) -> None:
        self.holds: dict[Cause, str] = {}
        self.counts: Counter[str] = Counter()
        self._surprised_after, self._frozen_after_s = surprised_after, frozen_after_s
        self._clock = clock
        # Of the newest image, when it came, and for how long the robot moved while it was the same.
        self._energy, self._looked_s, self._blind_s = math.nan, clock(), 0.0
        self._surprises = self._calm = 0
        # Of the first reason since the robot last did as decided.
        self._since_s: float | None = None

    @property
    def blocks(self) -> bool:
        """Whether nothing is to be tried."""
        return bool(self.holds.keys() - TRIED_AGAIN)

    @property
    def why(self) -> str:
        """The gravest reason; empty: there is none."""
        return next((self.holds[cause] for cause in Cause if cause in self.holds), "")

    def hold(self, cause: Cause, why: str) -> None:
        """There is a reason to stand; its words may change while it lasts."""
        self.counts[cause.label] += cause not in self.holds
        self.holds[cause] = why
        if self._since_s is None:
            self._since_s = self._clock()

    def release(self, *causes: Cause) -> None:
        """These are over, if they were."""
        for cause in causes:
            self.holds.pop(cause, None)

    def obeyed(self) -> None:
        """The robot does as decided: nothing makes it stand, and what will begins anew."""
        self.release(*TRIED_AGAIN)
        self._since_s = None

    def surprised(self, surprising: bool) -> None:
        """The model judged an image by what it had predicted."""
        self._surprises = self._surprises + 1 if surprising else 0
        if surprising:
            self._calm = 0
        if self._surprised_after and self._surprises >= self._surprised_after:
            self.hold(Cause.SURPRISE, f"{self._surprises} images in a row surprised the model")

    def image(self) -> None:
        """Another image came, whether or not it could be judged."""
        self._calm += 1
        if self._calm > self._surprised_after:
            self.release(Cause.SURPRISE)

    def looked(self, energy: float, *, moving: bool) -> None:
        """An image of this ``energy`` came after the robot was told to be ``moving``, or to stand. Of two
        images of a live camera it is never the same to the bit."""
        before_s, self._looked_s = self._looked_s, self._clock()
        if energy != self._energy:
            self._energy, self._blind_s = energy, 0.0
            self.release(Cause.FROZEN)
        elif moving:
            self._blind_s += self._looked_s - before_s
        if self._frozen_after_s and self._blind_s > self._frozen_after_s:
            same = f"the image has stayed the same while it was to move for {self._blind_s:.1f} s"
            self.hold(Cause.FROZEN, f"{same}: does the camera hang, or has it no noise (frozen_after_s)?")

    def lasting(self, longer_than_s: float) -> str:
        """The gravest reason, if the robot has stood for so long; empty: it has not, or there is none now.
        Reasons that come and go, and between which it never does as decided, are one."""
        since_s = self._since_s
        return self.why if since_s is not None and self._clock() - since_s > longer_than_s else ""

    def verdict(self, otherwise: Verdict) -> Verdict:
        """For the diagnostics; ``otherwise`` where there is no reason to stand."""
        for cause in Cause:
            if cause in self.holds:
                return Verdict(cause.level, f"the robot stands: {self.holds[cause]}")
        return otherwise
