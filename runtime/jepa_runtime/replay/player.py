"""A pipeline that is given recorded inputs one after the other: the code that serves, without the hurry."""

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

# An engine may compile something on a frame of a new size, and a machine may swap: but it does not hang.
_PATIENCE_S = 120.0


class Player:
    """Feeds a pipeline, and waits for the result of each frame before anything else is given to it.

    Nothing is dropped, and no clock but that of the recording is looked at: what comes out follows from the
    inputs, the model and its engine alone. Times taken are left out of the results.

    Attributes:
        refused: candidates, commands and goals that the model could not use, as in service; the last reason.

    Args:
        open_model: called on the inference thread.

    Raises:
        JepaRuntimeError: the model cannot be opened.
    """

    def __init__(self, open_model: Callable[[], WorldModel]) -> None:
        self.refused = 0
        self.last_refusal = ""
        self._now_ns = 0
        self._proposals = CandidateProposals(clock=lambda: self._now_ns / 1e9)
        self._instead: Candidates | None = None
        self._result: Result | None = None
        self._error: Exception | None = None
        self._pipeline = Pipeline(
            open_model,
            on_result=self._keep,
            on_calibration=self._keep,
            on_error=self._fail,
            candidates=self._candidates,
        )
        self._pipeline.start()
        self._proposals.expect(self.model)

    @property
    def model(self) -> WorldModel:
        """To read what it is."""
        return self._pipeline.model

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.stop()

    def feed(self, entry: Input, instead: Candidates | None = None) -> Result | None:
        """Give the model the next input.

        Args:
            instead: candidates to follow from this frame, whatever was proposed.

        Returns:
            What came of a frame; None for anything else.

        Raises:
            JepaRuntimeError: the frame failed.
        """
        self._now_ns = entry.log_ns
        content = entry.content
        if isinstance(content, Frame):
            self._instead = instead
            return self._process(content)
        if isinstance(content, Command):
            self._pipeline.add_action(content.stamp_ns, content.action)
        elif isinstance(content, Goal):
            self.seek(content.image, content.stamp_ns)
        else:
            self._offer(content)
        return None

    def seek(self, image: NDArray[np.uint8] | None, stamp_ns: int) -> None:
        """Seek what an image shows, from the next frame on."""
        self._pipeline.set_goal(image, stamp_ns)

    def _offer(self, proposal: Proposal) -> None:
        reason = self._proposals.offer(proposal.message)
        if reason:
            self._refuse(f"candidates: {reason}")

    def _process(self, frame: Frame) -> Result:
        self._result = None
        self._pipeline.submit(frame)
        if not self._pipeline.wait_idle(_PATIENCE_S):
            raise JepaRuntimeError(
                f"frame {frame.sequence} took more than {_PATIENCE_S:g} s: the model hangs"
            )
        if self._error is not None or self._result is None:
            raise JepaRuntimeError(f"frame {frame.sequence} failed: {self._error}") from self._error
        return replace(
            self._result,
            timings_ms=dict.fromkeys(self._result.timings_ms, 0.0),
            device_ms={},
            deadline_missed=False,
        )

    # --- on the inference thread, while the one that feeds waits

    def _candidates(self) -> Candidates | None:
        return self._proposals.newest() if self._instead is None else self._instead

    def _keep(self, result: Result) -> None:
        self._result = result

    def _fail(self, error: Exception, frame: Frame | None) -> None:
        if frame is None:
            self._refuse(str(error))
        else:
            self._error = error

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self.last_refusal = reason
