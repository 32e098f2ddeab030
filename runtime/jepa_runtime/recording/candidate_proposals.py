"""Candidate action sequences proposed by a planner: validated on arrival, discarded when outdated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording.messages import array_of, from_time
from jepa_runtime.serving.pipeline import Candidates


class CandidateProposals:
    """The newest valid candidates, passed from one thread to the inference thread.

    Attributes:
        actuation_delay_s: See :class:`~jepa_runtime.serving.pipeline.Pipeline`.
        timeout_s: The age at which candidates are discarded.
        rejected: The number of rejected messages.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.actuation_delay_s = 0.0
        self.timeout_s = 1.0
        self.rejected = 0
        self._clock = clock
        self._shape, self._max_plausible, self._max_delay_s = (0, 0, 0), 0.0, 0.0
        # A single tuple, so that the other thread sees either the old or the new one.
        self._newest: tuple[float, Candidates] | None = None

    def expect(self, model: WorldModel) -> None:
        """Set the model that evaluates candidates; discards candidates of another shape or limit."""
        manifest = model.manifest
        before = self._shape, self._max_plausible, self._max_delay_s
        self._shape = model.num_samples, manifest.horizon, manifest.action_size
        self._max_plausible = manifest.io.action.max_plausible
        self._max_delay_s = manifest.horizon * manifest.io.step_s - self.actuation_delay_s
        if (self._shape, self._max_plausible, self._max_delay_s) != before:
            self._newest = None

    def offer(self, message: Any) -> str:
        """Accept the candidates of a jepa_msgs/ActionCandidates, or return why they are rejected."""
        reason = self._accept(message)
        self.rejected += bool(reason)
        return reason

    def newest(self) -> Candidates | None:
        """Return the current candidates, or None if there are none or they are too old."""
        if self._newest is None or self._clock() - self._newest[0] > self.timeout_s:
            return None
        return self._newest[1]

    def _accept(self, message: Any) -> str:
        try:
            actions = array_of(message.actions)
        except ValueError as error:
            return str(error)
        num_samples, steps, size = self._shape
        if actions.shape[1:] != (steps, size) or not 1 <= actions.shape[0] <= num_samples:
            return f"actions must be [1..{num_samples}, {steps}, {size}], got {list(actions.shape)}"
        # Finite double-precision numbers may overflow in single precision.
        with np.errstate(over="ignore"):
            actions = actions.astype(np.float32)
        if not (np.abs(actions) <= self._max_plausible).all():
            return f"actions must be finite and at most {self._max_plausible:g} in magnitude"
        # Recordings of earlier versions do not have it.
        delay_s = getattr(message, "delay_s", 0.0)
        if not 0 <= delay_s <= self._max_delay_s:
            return f"delay_s must be from 0 to the model's horizon ({self._max_delay_s:g}), got {delay_s:g}"
        candidates = Candidates(
            actions,
            message.source or "candidates",
            from_time(message.header.stamp),
            delay_ns=round(delay_s * 1e9),
        )
        self._newest = (self._clock(), candidates)
        return ""
