"""A pipeline that processes recorded inputs one by one, with the code of live operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording.candidate_proposals import CandidateProposals
from jepa_runtime.replay.bag_inputs import Command, Goal, Input, Proposal
from jepa_runtime.serving.pipeline import Candidates, Pipeline, Result
from jepa_runtime.sources.base import Frame
from jepa_runtime.util.state_parts import MeasuredState

# Long enough for an engine that compiles for a new frame size, and for a swapping system.
_TIMEOUT_S = 120.0


class Player:
    """Feeds a pipeline, and waits for the result of each frame before the next input.

    Nothing is dropped, and only the clock of the recording is used: the outputs depend on the inputs, the
    model and its engine alone. Results contain no durations.

    Args:
        open_model: Called on the inference thread.

    Attributes:
        rejected: Number of candidates, commands and goals that the model could not use.
        last_rejection: Why the last one was rejected.

    Raises:
        JepaRuntimeError: The model cannot be opened.
    """

    def __init__(self, open_model: Callable[[], WorldModel]) -> None:
        self.rejected = 0
        self.last_rejection = ""
        self._now_ns = 0
        self._proposals = CandidateProposals(clock=lambda: self._now_ns / 1e9)
        self._override: Candidates | None = None
        self._result: Result | None = None
        self._error: Exception | None = None
        self._pipeline = Pipeline(
            open_model,
            on_result=self._store,
            on_calibration=self._store,
            on_error=self._fail,
            candidates=self._candidates,
        )
        self._pipeline.start()
        self._proposals.expect(self.model)

    @property
    def model(self) -> WorldModel:
        """The open model, to read its properties."""
        return self._pipeline.model

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.stop()

    def feed(self, entry: Input, candidates: Candidates | None = None) -> Result | None:
        """Pass the next input to the model.

        Args:
            entry: The input.
            candidates: Candidates to evaluate with this frame instead of the proposed ones.

        Returns:
            The result of a frame; None for other inputs.

        Raises:
            JepaRuntimeError: The frame failed.
        """
        self._now_ns = entry.log_ns
        content = entry.content
        if isinstance(content, Frame):
            self._override = candidates
            return self._process(content)
        if isinstance(content, Command):
            self._pipeline.add_action(content.stamp_ns, content.action)
        elif isinstance(content, MeasuredState):
            self._pipeline.add_state(*content)
        elif isinstance(content, Goal):
            self.set_goal(content.image, content.stamp_ns)
        else:
            self._offer(content)
        return None

    def set_goal(self, image: NDArray[np.uint8] | None, stamp_ns: int) -> None:
        """Set the goal image from the next frame on; None: no goal."""
        self._pipeline.set_goal(image, stamp_ns)

    def _offer(self, proposal: Proposal) -> None:
        reason = self._proposals.offer(proposal.message)
        if reason:
            self._reject(f"candidates: {reason}")

    def _process(self, frame: Frame) -> Result:
        self._result = None
        self._pipeline.submit(frame)
        if not self._pipeline.wait_idle(_TIMEOUT_S):
            raise JepaRuntimeError(
                f"frame {frame.sequence} took more than {_TIMEOUT_S:g} s: the model hangs",
                code="replay.frame_timeout",
            )
        if self._error is not None or self._result is None:
            raise JepaRuntimeError(
                f"frame {frame.sequence} failed: {self._error}", code="replay.frame_failed"
            ) from self._error
        return replace(
            self._result,
            timings_ms=dict.fromkeys(self._result.timings_ms, 0.0),
            device_ms={},
            deadline_missed=False,
        )

    # --- on the inference thread, while the caller of feed waits

    def _candidates(self) -> Candidates | None:
        return self._proposals.newest() if self._override is None else self._override

    def _store(self, result: Result) -> None:
        self._result = result

    def _fail(self, error: Exception, frame: Frame | None) -> None:
        if frame is None:
            self._reject(str(error))
        else:
            self._error = error

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        self.last_rejection = reason
