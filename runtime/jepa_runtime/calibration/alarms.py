"""Alarms: something goes wrong, and no longer does; each kind with a stated rate of false ones.

``surprise`` is a stretch of scores that normal data exceed seldom: a push, a thing that moved by itself, a
camera that shows something else. ``change`` is found where scores stay a little higher than they were: other
friction, other light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jepa_runtime.calibration.surprise import (
    ChangeDetector,
    Event,
    EventDetector,
    Score,
    Threshold,
    threshold_of,
)

Kind = Literal["surprise", "change"]

# A change is looked for by a threshold that at most one in so many normal blocks exceeds.
_CHANGE_BLOCKS = 10
# While half of the blocks are high a change shows again within about ten pairs of blocks.
_CHANGE_LASTS = 20


@dataclass(frozen=True)
class Alarm:
    """The beginning or the end of something that is wrong.

    Attributes:
        kind: what was noticed.
        event: what is known of it now; of a change, when it was noticed and the score then.
        end_ns: stamp at which it was over; None: it goes on.
        threshold: that its scores, or the blocks of a change, exceeded.
        false_alarm_every_s: of this kind, normal data give at most one in so many seconds.
    """

    kind: Kind
    event: Event
    end_ns: int | None
    threshold: Threshold
    false_alarm_every_s: float


class Alarms:
    """Watches scores, one a step.

    Args:
        highest: the highest score of each block of normal data.
        block: scores in a block.
        step_s: from one score to the next.
        false_alarm_every_s: one false alarm of each kind in so many seconds of normal data, at most, and in
            two blocks: from less no change can be told.

    Raises:
        ValueError: an argument is out of range.
        JepaRuntimeError: so rare an alarm cannot be stated from so little data.
    """

    def __init__(
        self, highest: Sequence[float], *, block: int, step_s: float, false_alarm_every_s: float
    ) -> None:
        scores = np.asarray(highest, np.float64)
        every = max(round(false_alarm_every_s / step_s), 2 * block)
        often = threshold_of(scores, block=block, every=_CHANGE_BLOCKS * block)
        self._false_alarm_every_s = false_alarm_every_s
        self._events = EventDetector(threshold_of(scores, block=block, every=every))
        self._changes = ChangeDetector(often, average_run=every)
        self._change: Event | None = None
        self._unchanged = 0

    @property
    def surprise(self) -> Event | None:
        """The surprise that is in progress."""
        return self._events.current

    @property
    def every(self) -> int:
        """In normal data at most one surprise begins in this number of scores."""
        return self._events.threshold.every

    def is_surprising(self, score: Score) -> bool:
        """Whether a score exceeds the threshold of surprises."""
        return score.value > self._events.threshold.value

    def update(self, stamp_ns: int, score: Score | None) -> list[Alarm]:
        """The next score; None where there was nothing to compare with.

        Returns:
            What begins or is over with it.
        """
        found = []
        going_on = self._events.current is not None
        over = self._events.update(stamp_ns, score)
        if over is not None:
            found.append(self._alarm("surprise", over, stamp_ns))
        elif not going_on and self._events.current is not None:
            found.append(self._alarm("surprise", self._events.current, None))
        return found + self._watch_change(stamp_ns, score)

    def close(self, stamp_ns: int) -> list[Alarm]:
        """End what goes on, because what comes is not its continuation."""
        surprise, change, self._change = self._events.close(), self._change, None
        found = [] if surprise is None else [self._alarm("surprise", surprise, stamp_ns)]
        return found if change is None else [*found, self._alarm("change", change, stamp_ns)]

    def _watch_change(self, stamp_ns: int, score: Score | None) -> list[Alarm]:
        shows = self._changes.update(score)
        self._unchanged = 0 if shows else self._unchanged + (score is not None)
        if self._change is None:
            if not shows or score is None:
                return []
            self._change = Event(stamp_ns, stamp_ns, score.horizon, score.value)
            return [self._alarm("change", self._change, None)]
        if self._unchanged < _CHANGE_LASTS * 2 * self._changes.threshold.block:
            return []
        over, self._change = self._change, None
        return [self._alarm("change", over, stamp_ns)]

    def _alarm(self, kind: Kind, event: Event, end_ns: int | None) -> Alarm:
        watch = self._events if kind == "surprise" else self._changes
        return Alarm(kind, event, end_ns, watch.threshold, self._false_alarm_every_s)
