"""How the update in work goes, for whoever asked for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from jepa_msgs.action import UpdateModel

from jepa_runtime.ota.gate.shadow_test import ShadowReport
from jepa_runtime.ota.state import Phase, State

_PERIOD_S = 0.2


class Feedback:
    """Keeps the feedback of one update after the other, and sends it when there is news.

    Args:
        send: is given the whole feedback each time; bytes are told of a few times a second at most.
    """

    def __init__(
        self, send: Callable[[UpdateModel.Feedback], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._feedback = _nothing()
        self._began: tuple[float, int] | None = None
        self._sent_at = -math.inf

    def entered(self, state: State, reason: str) -> None:
        """A state was entered."""
        told = self._feedback = _nothing() if state.phase is Phase.CHECK else self._feedback
        told.state, told.reason = str(state.phase), reason
        if state.work is not None:
            told.shadow_max_error_ratio = state.work.release.budgets.max_error_ratio or math.inf
        self._began = None
        self._send(told)

    def fetched(self, done: int, total: int) -> None:
        """So many bytes of a release are there."""
        now, told = self._clock(), self._feedback
        since, had = self._began = self._began or (now, done)
        told.bytes_done, told.bytes_total = done, total
        told.bytes_per_s = (done - had) / (now - since) if now > since else 0.0
        if done >= total or now - self._sent_at >= _PERIOD_S:
            self._sent_at = now
            self._send(told)

    def compared(self, report: ShadowReport) -> None:
        """So stands the comparison with what serves."""
        told, known = self._feedback, report.summary
        told.shadow_frames, told.shadow_compared = report.frames, report.moving
        told.shadow_error_ratio = known.candidate / known.current if known.current else math.nan
        told.shadow_excess_low, told.shadow_excess_high = known.low, known.high
        self._send(told)


def _nothing() -> UpdateModel.Feedback:
    return UpdateModel.Feedback(
        shadow_error_ratio=math.nan, shadow_excess_low=-math.inf, shadow_excess_high=math.inf
    )
