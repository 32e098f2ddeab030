"""Feedback of the action ``~/update``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from jepa_msgs.action import UpdateModel

from jepa_runtime.ota import Phase, State
from jepa_runtime.ota.gate import ShadowReport

_PERIOD_S = 0.2


class UpdateFeedback:
    """Collect the feedback of one update after another and send it when it changes.

    Args:
        send: Receives the complete feedback each time. Download progress is sent a few times a second at
            most.
        clock: Monotonic clock [s].
    """

    def __init__(
        self, send: Callable[[UpdateModel.Feedback], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._feedback = _initial_feedback()
        self._began: tuple[float, int] | None = None
        self._sent_at = -math.inf

    def on_state(self, state: State, reason: str) -> None:
        """Report that a state was entered."""
        if state.phase is Phase.CHECK:
            self._feedback = _initial_feedback()
        feedback = self._feedback
        feedback.state, feedback.reason = str(state.phase), reason
        if state.candidate is not None:
            feedback.shadow_max_error_ratio = state.candidate.release.budgets.max_error_ratio or math.inf
        self._began = None
        self._send(feedback)

    def on_download(self, done: int, total: int) -> None:
        """Report the number of bytes of a release that are downloaded."""
        now, feedback = self._clock(), self._feedback
        since, initial = self._began = self._began or (now, done)
        feedback.bytes_done, feedback.bytes_total = done, total
        feedback.bytes_per_s = (done - initial) / (now - since) if now > since else 0.0
        if done >= total or now - self._sent_at >= _PERIOD_S:
            self._sent_at = now
            self._send(feedback)

    def on_comparison(self, report: ShadowReport) -> None:
        """Report the current result of the comparison with the active model."""
        feedback, summary = self._feedback, report.summary
        feedback.shadow_frames, feedback.shadow_compared = report.frames, report.moving
        feedback.shadow_error_ratio = summary.candidate / summary.current if summary.current else math.nan
        feedback.shadow_excess_low, feedback.shadow_excess_high = summary.low, summary.high
        self._send(feedback)


def _initial_feedback() -> UpdateModel.Feedback:
    return UpdateModel.Feedback(
        shadow_error_ratio=math.nan, shadow_excess_low=-math.inf, shadow_excess_high=math.inf
    )
