"""What must make the robot stand, and for how long it has been so. Decided without ROS, clocks passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from jepa_ros.diagnostics import Level, Verdict


class Cause(Enum):
    """Why the robot stands, the gravest first.

    Attributes:
        level: of the diagnostics while it lasts.
    """

    MODEL = "model", Level.ERROR
    FAULT = "fault", Level.ERROR
    FORBIDDEN = "forbidden", Level.ERROR
    SURPRISE = "surprise", Level.WARN
    OLD = "old", Level.WARN
    STALE = "stale", Level.STALE

    def __init__(self, label: str, level: Level) -> None:
        self.label = label
        self.level = level


# Of these only a decision that may be obeyed shows that they are over: until then it is tried again.
TRIED_AGAIN = frozenset({Cause.FAULT, Cause.FORBIDDEN})


@dataclass(frozen=True)
class Hold:
    """A reason to stand, in words, and since when [s of the guard's clock]."""

    why: str
    since_s: float


class Guard:
    """Holds the robot while there is a reason to.

    Args:
        surprised_after: so many images in a row that surprised the model are a reason, until as many others
            came; 0: they never are.
        clock: monotonic seconds.

    Attributes:
        holds: the reasons that there are now.
        counts: how often each began.
    """

    def __init__(self, *, surprised_after: int, clock: Callable[[], float]) -> None:
        self.holds: dict[Cause, Hold] = {}
        self.counts: Counter[str] = Counter()
        self._surprised_after = surprised_after
        self._clock = clock
        self._surprises = self._calm = 0

    @property
    def blocks(self) -> bool:
        """Whether nothing is to be tried."""
        return bool(self.holds.keys() - TRIED_AGAIN)

    @property
    def why(self) -> str:
        """The gravest reason; empty: there is none."""
        return next((self.holds[cause].why for cause in Cause if cause in self.holds), "")

    def hold(self, cause: Cause, why: str) -> None:
        """There is a reason to stand; its words may change while it lasts."""
        before = self.holds.get(cause)
        self.counts[cause.label] += before is None
        self.holds[cause] = Hold(why, self._clock() if before is None else before.since_s)

    def release(self, *causes: Cause) -> None:
        """These are over, if they were."""
        for cause in causes:
            self.holds.pop(cause, None)

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

    def lasting(self, longer_than_s: float) -> str:
        """A reason that has lasted for so long; empty: there is none."""
        now_s = self._clock()
        return next((h.why for h in self.holds.values() if now_s - h.since_s > longer_than_s), "")

    def verdict(self, otherwise: Verdict) -> Verdict:
        """For the diagnostics; ``otherwise`` where there is no reason to stand."""
        for cause in Cause:
            if cause in self.holds:
                return Verdict(cause.level, f"the robot stands: {self.holds[cause].why}")
        return otherwise
