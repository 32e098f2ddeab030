"""Alarms with a stated rate of false ones.

``surprise``: a period of scores that normal data rarely exceed, such as a push, an object that moves by
itself, or a camera that shows something else. ``change``: scores that stay slightly higher than before, such
as after a change of friction or light.
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

# The threshold of the change detector is exceeded by at most one in this number of normal blocks.
_CHANGE_BLOCKS = 10
# While half of the blocks are high, the change is detected again within about ten pairs of blocks.
_CHANGE_LASTS = 20


@dataclass(frozen=True)
class Alarm:
    """The beginning or the end of an alarm.

    Attributes:
        kind: Kind of the alarm.
        event: The event so far; for a change, the time of its detection and the score then.
        end_ns: Stamp at which it ended; None: it is in progress.
        threshold: Threshold that its scores, or the blocks of a change, exceed.
        false_alarm_every_s: Minimum mean time between false alarms of this kind on normal data.
    """

    kind: Kind
    event: Event
    end_ns: int | None
    threshold: Threshold
    false_alarm_every_s: float


class Alarms:
    """Raises alarms from one score per step.

    Args:
        highest: Maximum score of each block of normal data.
        block: Scores in a block.
        step_s: Time between two scores.
        false_alarm_every_s: Minimum mean time between false alarms of each kind on normal data; at least two
            blocks, since a change cannot be detected from less.

    Raises:
        ValueError: An argument is out of range.
        JepaRuntimeError: There are too few normal data for this rate.
    """

    def __init__(
        self, highest: Sequence[float], *, block: int, step_s: float, false_alarm_every_s: float
    ) -> None:
        scores = np.asarray(highest, np.float64)
        every = max(round(false_alarm_every_s / step_s), 2 * block)
        change_threshold = threshold_of(scores, block=block, every=_CHANGE_BLOCKS * block)
        self._false_alarm_every_s = false_alarm_every_s
        self._events = EventDetector(threshold_of(scores, block=block, every=every))
        self._changes = ChangeDetector(change_threshold, average_run=every)
        self._change: Event | None = None
        self._unchanged = 0

    @property
    def surprise(self) -> Event | None:
        """The surprise in progress, or None."""
        return self._events.current

    @property
    def every(self) -> int:
        """Number of scores of normal data in which at most one surprise begins on average."""
        return self._events.threshold.every

    def is_surprising(self, score: Score) -> bool:
        """Return whether a score exceeds the surprise threshold."""
        return score.value > self._events.threshold.value

    def update(self, stamp_ns: int, score: Score | None) -> list[Alarm]:
        """Add the next score; None if there is nothing to compare.

        Returns:
            The alarms that begin or end with it.
        """
        alarms = []
        was_in_progress = self._events.current is not None
        ended = self._events.update(stamp_ns, score)
        if ended is not None:
            alarms.append(self._alarm("surprise", ended, stamp_ns))
        elif not was_in_progress and self._events.current is not None:
            alarms.append(self._alarm("surprise", self._events.current, None))
        return alarms + self._update_change(stamp_ns, score)

    def close(self, stamp_ns: int) -> list[Alarm]:
        """End the alarms in progress, because the next scores do not continue the previous ones."""
        surprise, change, self._change = self._events.close(), self._change, None
        alarms = [] if surprise is None else [self._alarm("surprise", surprise, stamp_ns)]
        return alarms if change is None else [*alarms, self._alarm("change", change, stamp_ns)]

    def _update_change(self, stamp_ns: int, score: Score | None) -> list[Alarm]:
        is_detected = self._changes.update(score)
        self._unchanged = 0 if is_detected else self._unchanged + (score is not None)
        if self._change is None:
            if not is_detected or score is None:
                return []
            self._change = Event(stamp_ns, stamp_ns, score.horizon, score.value)
            return [self._alarm("change", self._change, None)]
        if self._unchanged < _CHANGE_LASTS * 2 * self._changes.threshold.block:
            return []
        ended, self._change = self._change, None
        return [self._alarm("change", ended, stamp_ns)]

    def _alarm(self, kind: Kind, event: Event, end_ns: int | None) -> Alarm:
        detector = self._events if kind == "surprise" else self._changes
        return Alarm(kind, event, end_ns, detector.threshold, self._false_alarm_every_s)
