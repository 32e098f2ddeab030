"""The third gate: the candidate predicts beside what serves now, and the next frame judges both.

Only frames count on which something moved: where the current model would have erred less by predicting no
change than it errs in nine of ten predictions (its ``error_bounds``), nothing is to be learnt about
predictions, and a robot that stands still must not let everything pass. The current model alone decides
which frames these are.

Latents that are nothing but noise, or have collapsed to one, are easy to predict: their mean scores 0.41,
which can be less than what a good model scores. But they change as much from one step to the next as they do
over many, while what a robot sees changes little by little. So a candidate is refused as well if its share of
the two (:class:`_Coherence`) lies nearer to 1 than to that of what serves.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import UpdateError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota.gate.sequential_test import UNRELATED, PairedTest, Summary, Verdict, score
from jepa_runtime.serving import realtime
from jepa_runtime.serving.history import History
from jepa_runtime.sources.base import Frame, Source, check_commands

_TELL_S = 1.0
# Of a source without end that never tells what was executed, such as a camera, so many frames are enough.
_BLIND_FRAMES = 18_000
_FAR, _FAST = 120, 0.9


@dataclass(frozen=True)
class ShadowReport:
    """What came of it.

    Attributes:
        verdict: CONTINUE if the frames ended before there was one, or would never lead to one.
        reason: in one sentence.
        summary: of the test.
        frames: seen.
        predicted: of those, frames that both models had predicted.
        moving: of those, frames on which something moved; these were compared.
    """

    verdict: Verdict
    reason: str
    summary: Summary
    frames: int
    predicted: int
    moving: int


class ShadowTest:
    """Two open models on the same frames. Use it on the thread that opened them.

    Args:
        current: what serves now.
        candidate: what is to take its place; its actions and steps are the same, its latents need not be.
        test: decides.
    """

    def __init__(self, current: WorldModel, candidate: WorldModel, test: PairedTest) -> None:
        self._current, self._candidate, self._test = _Predictions(current), _Predictions(candidate), test
        latent = current.manifest.io.latent
        self._still = current.manifest.error_bounds[0] / math.sqrt(latent.tokens * latent.dim)
        self._frames = self._predicted = self._moving = 0

    def add(self, frame: Frame, action: NDArray[np.floating] | None) -> Verdict:
        """One frame, and the action [A] that is executed from its stamp on (None: unknown).

        Raises:
            ValueError: the action is not of this robot.
            UpdateError: the current model predicts NaN or infinity.
            BackendError: a model failed.
        """
        self._frames += 1
        current, candidate = (model.add(frame, action) for model in (self._current, self._candidate))
        if current is None or candidate is None:
            return self._test.verdict
        self._predicted += 1
        if current[1] <= self._still:
            return self._test.verdict
        self._moving += 1
        verdict = self._test.add(score(*current), score(*candidate))
        if verdict is Verdict.ACCEPT and not self._coherent():
            return self._test.refuse(UNRELATED)
        return verdict

    @property
    def is_blind(self) -> bool:
        """Whether so many frames could not be predicted that none will be."""
        return not self._predicted and self._frames >= _BLIND_FRAMES

    def _coherent(self) -> bool:
        """Whether the candidate's latents follow what is seen about as those of what serves."""
        current, candidate = (model.coherence.share() for model in (self._current, self._candidate))
        # Where all changes as fast as that, noise cannot be told from what is seen.
        return current >= _FAST or candidate <= (1 + current) / 2

    def report(self) -> ShadowReport:
        """What is known so far."""
        summary = self._test.summary()
        return ShadowReport(
            self._test.verdict, self._reason(summary), summary, self._frames, self._predicted, self._moving
        )

    def _reason(self, summary: Summary) -> str:
        if not self._predicted:
            return (
                f"of {self._frames} frames none could be predicted: the actions between them are unknown, or "
                "they are further apart than the models' steps: name a source that tells both, such as "
                "drive.mcap?action=/cmd_vel:linear.x,angular.z"
            )
        if not self._moving:
            return f"nothing moved on any of {self._predicted} frames, so nothing could be compared: drive"
        end = self._test.reason or "too few frames to tell"
        if math.isnan(summary.current):
            return f"{end}: {self._moving} of {self._frames} frames could be compared"
        return (
            f"{end}: its error is {summary.candidate:.4f}, the current one's {summary.current:.4f}, "
            f"at most {1 + self._test.margin:g} times that is allowed ({summary.frames} frames)"
        )


class _Coherence:
    """How much latents change over one step, against how much over :data:`_FAR` frames: about 1 for noise."""

    def __init__(self) -> None:
        self._latents: deque[NDArray[np.float32]] = deque(maxlen=_FAR)
        self._near = self._far = 0.0

    def add(self, arrived: NDArray[np.float32], change: float) -> None:
        """A latent, and how far it is from the one a step before it (root mean square)."""
        if len(self._latents) == _FAR:
            self._near += change**2
            self._far += _distance(self._latents[0], arrived) ** 2
        self._latents.append(arrived)

    def share(self) -> float:
        """Root mean square over root mean square; 1 where nothing ever changed."""
        return math.sqrt(self._near / self._far) if self._far else 1.0


class _Predictions:
    """One model, and what it knew one step ago."""

    def __init__(self, model: WorldModel) -> None:
        self.coherence = _Coherence()
        manifest = model.manifest
        step_ns = round(manifest.io.step_s * 1e9)
        self._model = model
        self._history = History(
            manifest.history_size,
            step_ns,
            action_size=manifest.action_size,
            tolerance_ns=step_ns // 8,
            max_gap_ns=2 * step_ns,
        )

    def add(self, frame: Frame, action: NDArray[np.floating] | None) -> tuple[float, float] | None:
        """How far the prediction of this frame was off, and how far the last latent is (both root mean
        squares); None where it could not be predicted."""
        if action is not None:
            self._history.add_action(frame.stamp_ns, action)
        arrived = self._model.encode(frame.image)
        self._history.add_latent(frame.stamp_ns, arrived)
        known = self._history.previous()
        if known is None:
            return None
        context, executed = known
        change = _distance(context.latents[-1], arrived)
        self.coherence.add(arrived, change)
        error = self._model.surprise(context.latents, context.actions, executed, arrived)
        return error, change


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(one - other))))


def run(
    open_current: Callable[[], WorldModel],
    open_candidate: Callable[[], WorldModel],
    source: Source,
    test: PairedTest,
    *,
    alive: Callable[[], None],
    compared: Callable[[ShadowReport], None],
    ends: bool,
) -> ShadowReport:
    """Compare two models on the frames of a source, with the commands it gives, until the test knows.

    Both run on a thread that makes way for every other (SCHED_IDLE), so that what serves comes first.

    Args:
        open_current, open_candidate: called on that thread; what they return is closed there.
        source: not closed here.
        alive: called there with every frame; what it raises ends it too.
        compared: called there about once a second and at the end, with what is known so far.
        ends: the source ends by itself: what was executed may be told as late as then.

    Raises:
        SourceError: the source failed, or what it recorded are no commands of the models.
        UpdateError: its commands are not those of the models.
        JepaRuntimeError: a model cannot be opened, or failed.
    """
    interrupted = threading.Event()

    def compare() -> ShadowReport:
        realtime.stay_in_background()
        with open_current() as current, open_candidate() as candidate:
            check_commands(source, current.manifest)
            shadow = ShadowTest(current, candidate, test)
            told = time.monotonic()
            for frame in source.frames():
                alive()
                if shadow.add(frame, _command(source, current)) is not Verdict.CONTINUE:
                    break
                if time.monotonic() - told >= _TELL_S:
                    compared(shadow.report())
                    told = time.monotonic()
                if (shadow.is_blind and not ends) or interrupted.is_set():
                    break
            report = shadow.report()
            compared(report)
            return report

    with ThreadPoolExecutor(1, "jepa-shadow") as pool:
        try:
            return pool.submit(compare).result()
        finally:
            interrupted.set()


def _command(source: Source, model: WorldModel) -> NDArray[np.float32] | None:
    command, action = source.command, model.manifest.io.action
    if command is not None and command.shape != (len(action.names),):
        raise UpdateError(
            f"{source.name}: gives {command.size} numbers as its command, the models take "
            f"{', '.join(action.names)}: name these of its fields"
        )
    return command
