"""The candidates a planner wants followed: checked when they come, forgotten when they are old."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording.messages import array_of, from_time
from jepa_runtime.serving.pipeline import Candidates


class CandidateProposals:
    """The newest acceptable candidates. Offered on one thread, taken on the inference thread.

    Attributes:
        timeout_s: a planner silent for this long has lost its say.
        refused: how many messages were refused.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = 1.0
        self.refused = 0
        self._clock = clock
        self._shape, self._most = (0, 0, 0), 0.0
        # One tuple, replaced whole: the other thread sees the old one or the new one.
        self._newest: tuple[float, Candidates] | None = None

    def expect(self, model: WorldModel) -> None:
        """They are to be followed by ``model``. What was offered to one that follows others is forgotten."""
        manifest = model.manifest
        before = self._shape, self._most
        self._shape = model.num_samples, manifest.horizon, manifest.action_size
        self._most = manifest.io.action.max_plausible
        if (self._shape, self._most) != before:
            self._newest = None

    def offer(self, message: Any) -> str:
        """Take the candidates of a jepa_msgs/ActionCandidates, or return why they are refused."""
        reason = self._take(message)
        self.refused += bool(reason)
        return reason

    def newest(self) -> Candidates | None:
        """The candidates to follow now; None: nobody has proposed any lately."""
        if self._newest is None or self._clock() - self._newest[0] > self.timeout_s:
            return None
        return self._newest[1]

    def _take(self, message: Any) -> str:
        try:
            actions = array_of(message.actions)
        except ValueError as error:
            return str(error)
        most, steps, size = self._shape
        if actions.shape[1:] != (steps, size) or not 1 <= actions.shape[0] <= most:
            return f"actions must be [1..{most}, {steps}, {size}], got {list(actions.shape)}"
        # Numbers that are finite in double precision may not be in the model's.
        with np.errstate(over="ignore"):
            actions = actions.astype(np.float32)
        if not (np.abs(actions) <= self._most).all():
            return f"actions must be finite numbers of at most {self._most:g}"
        candidates = Candidates(actions, message.source or "candidates", from_time(message.header.stamp))
        self._newest = (self._clock(), candidates)
        return ""
