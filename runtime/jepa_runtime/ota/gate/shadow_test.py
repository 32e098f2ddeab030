"""The third gate: a shadow test of the candidate next to the active model on the same frames.

Both predict, and the next frame shows the prediction errors.

Only frames on which something moved are compared: frames where the error of predicting no change exceeds the
active model's error in nine of ten predictions (its ``error_bounds``). Other frames carry no information on
predictions, and a robot that stands still must not accept every candidate. The active model alone selects
these frames.

Latents that are pure noise, or have collapsed to one point, are easy to predict: their mean score is 0.41,
which can be below that of a good model. But they change as much from one step to the next as over many steps,
while a scene changes gradually. A candidate is therefore also rejected if its ratio of the two
(:class:`_Coherence`) is closer to 1 than to that of the active model.
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
from jepa_runtime.ota.gate.sequential_test import INCOHERENT, PairedTest, Summary, Verdict, score
from jepa_runtime.serving import realtime
from jepa_runtime.serving.clip_sampler import ClipSampler
from jepa_runtime.serving.history import History
from jepa_runtime.sources.base import Frame, Source, check_commands, check_states
from jepa_runtime.util.state_parts import MeasuredState

_REPORT_S = 1.0
# Frames after which an endless source that never reports executed actions, such as a camera, is given up.
_MAX_UNPREDICTED = 18_000
_FAR_FRAMES, _NOISE_RATIO = 120, 0.9


@dataclass(frozen=True)
class ShadowReport:
    """The result of a shadow test.

    Attributes:
        verdict: CONTINUE if the frames ended before a verdict, or would never lead to one.
        reason: The reason, in one sentence.
        summary: The state of the statistical test.
        frames: Number of frames seen.
        predicted: Number of those that both models had predicted.
        moving: Number of those on which something moved; these were compared.
    """

    verdict: Verdict
    reason: str
    summary: Summary
    frames: int
    predicted: int
    moving: int


class ShadowTest:
    """Runs two open models on the same frames. Use it on the thread that opened them.

    Args:
        current: The active model.
        candidate: The candidate; it has the same actions and steps, but may have other latents.
        test: Decides.
    """

    def __init__(self, current: WorldModel, candidate: WorldModel, test: PairedTest) -> None:
        self._current, self._candidate, self._test = _Predictions(current), _Predictions(candidate), test
        latent = current.manifest.io.latent
        self._still = current.manifest.error_bounds[0] / math.sqrt(latent.tokens * latent.dim)
        self._state = current.manifest.io.state
        self._frames = self._predicted = self._moving = 0

    def add(
        self, frame: Frame, action: NDArray[np.floating] | None, state: MeasuredState | None = None
    ) -> Verdict:
        """Add one frame.

        Args:
            frame: The frame.
            action: The action [A] that is executed from its stamp on; None: unknown.
            state: The state of the robot near its stamp; None: unknown, or the models read none.

        Raises:
            ValueError: The action or the state does not fit this robot.
            UpdateError: The active model predicts NaN or infinity.
            BackendError: A model failed.
        """
        self._frames += 1
        current, candidate = (model.add(frame, action, state) for model in (self._current, self._candidate))
        if current is None or candidate is None:
            return self._test.verdict
        self._predicted += 1
        if current[1] <= self._still:
            return self._test.verdict
        self._moving += 1
        verdict = self._test.add(score(*current), score(*candidate))
        if verdict is Verdict.ACCEPT and not self._is_coherent():
            return self._test.refuse(INCOHERENT)
        return verdict

    @property
    def cannot_predict(self) -> bool:
        """Whether none of the first frames could be predicted, so that none will be."""
        return not self._predicted and self._frames >= _MAX_UNPREDICTED

    def _is_coherent(self) -> bool:
        """Return whether the candidate's latents follow the scene about as well as the active model's."""
        current, candidate = (model.coherence.ratio() for model in (self._current, self._candidate))
        # If the scene itself changes that fast, noise cannot be distinguished from it.
        return current >= _NOISE_RATIO or candidate <= (1 + current) / 2

    def report(self) -> ShadowReport:
        """Return the current result."""
        summary = self._test.summary()
        return ShadowReport(
            self._test.verdict, self._reason(summary), summary, self._frames, self._predicted, self._moving
        )

    def _reason(self, summary: Summary) -> str:
        if not self._predicted and self._state is not None:
            return (
                f"none of {self._frames} frames could be predicted: the actions between them are unknown, "
                "they are further apart than the models' steps, or there is no state of the robot "
                f"({', '.join(self._state.names)}) within an eighth of a step of them: use a recording with "
                "all of these and one clock, such as "
                "arm.mcap?action=TOPIC:FIELD,FIELD&state=TOPIC:FIELD,FIELD;TOPIC:FIELD"
            )
        if not self._predicted:
            return (
                f"none of {self._frames} frames could be predicted: the actions between them are unknown, or "
                "they are further apart than the models' steps: use a source with both, such as "
                "drive.mcap?action=/cmd_vel:linear.x,angular.z"
            )
        if not self._moving:
            return f"nothing moved on {self._predicted} frames, so nothing could be compared: move the robot"
        end = self._test.reason or "too few frames for a decision"
        if math.isnan(summary.current):
            return f"{end}: {self._moving} of {self._frames} frames could be compared"
        return (
            f"{end}: its error is {summary.candidate:.4f}, that of the active model {summary.current:.4f}, "
            f"and at most {1 + self._test.margin:g} times that is allowed ({summary.frames} frames)"
        )


class _Coherence:
    """Ratio of the change of latents over one step to that over :data:`_FAR_FRAMES` frames; noise: 1."""

    def __init__(self) -> None:
        self._latents: deque[NDArray[np.float32]] = deque(maxlen=_FAR_FRAMES)
        self._near = self._far = 0.0

    def add(self, arrived: NDArray[np.float32], change: float) -> None:
        """Add a latent, and its distance from the one a step before (root mean square)."""
        if len(self._latents) == _FAR_FRAMES:
            self._near += change**2
            self._far += _distance(self._latents[0], arrived) ** 2
        self._latents.append(arrived)

    def ratio(self) -> float:
        """Return the ratio of the root mean squares; 1 if nothing ever changed."""
        return math.sqrt(self._near / self._far) if self._far else 1.0


class _Predictions:
    """One model, and its history."""

    def __init__(self, model: WorldModel) -> None:
        self.coherence = _Coherence()
        manifest = model.manifest
        step_ns = round(manifest.io.step_s * 1e9)
        self._model, self._sampler, self._cache = model, ClipSampler(manifest), model.create_cache()
        self._history = History(
            manifest.history_size,
            step_ns,
            action_size=manifest.action_size,
            tolerance_ns=step_ns // 8,
            max_gap_ns=2 * step_ns,
            state_size=manifest.state_size,
        )

    def add(
        self, frame: Frame, action: NDArray[np.floating] | None, state: MeasuredState | None
    ) -> tuple[float, float] | None:
        """Return the error of the prediction of this frame, and the distance of the last latent.

        Both are root mean squares. None if the frame could not be predicted.
        """
        if action is not None:
            self._history.add_action(frame.stamp_ns, action)
        if state is not None:
            self._history.add_state(*state)
        clip = self._sampler.add(frame)
        if clip is None:
            return None
        arrived = self._model.encode_clip(clip.images, self._cache, clip.step)
        if not clip.is_complete:
            return None
        self._history.add_latent(frame.stamp_ns, arrived)
        previous = self._history.previous()
        if previous is None:
            return None
        context, executed = previous
        change = _distance(context.latents[-1], arrived)
        self.coherence.add(arrived, change)
        error = self._model.surprise(
            context.latents, context.actions, executed, arrived, history_states=context.states
        )
        return error, change


def _distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(one - other))))


def run(
    open_current: Callable[[], WorldModel],
    open_candidate: Callable[[], WorldModel],
    source: Source,
    test: PairedTest,
    *,
    heartbeat: Callable[[], None],
    on_report: Callable[[ShadowReport], None],
    finite_source: bool,
) -> ShadowReport:
    """Compare two models on the frames and commands of a source until the test has a result.

    Both run on a thread with idle priority (SCHED_IDLE), so that the serving process comes first.

    Args:
        open_current: Opens the active model on that thread, where it is also closed.
        open_candidate: Opens the candidate, likewise.
        source: The source of frames; it is not closed here.
        test: The statistical test.
        heartbeat: Called on that thread with every frame; an exception from it ends the test.
        on_report: Called on that thread about once a second and at the end, with the current result.
        finite_source: Whether the source ends by itself: executed actions may arrive as late as then.

    Raises:
        SourceError: The source failed, or its recorded commands do not fit the models.
        UpdateError: The commands of the source do not fit the models.
        JepaRuntimeError: A model cannot be opened, or failed.
    """
    interrupted = threading.Event()

    def compare() -> ShadowReport:
        realtime.stay_in_background()
        with open_current() as current, open_candidate() as candidate:
            check_commands(source, current.manifest)
            check_states(source, current.manifest)
            reads_states = current.manifest.state_size > 0
            shadow = ShadowTest(current, candidate, test)
            reported_at = time.monotonic()
            for frame in source.frames():
                heartbeat()
                state = source.state if reads_states else None
                if shadow.add(frame, _command(source, current), state) is not Verdict.CONTINUE:
                    break
                if time.monotonic() - reported_at >= _REPORT_S:
                    on_report(shadow.report())
                    reported_at = time.monotonic()
                if (shadow.cannot_predict and not finite_source) or interrupted.is_set():
                    break
            report = shadow.report()
            on_report(report)
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
            f"{source.name}: its command has {command.size} values, but the models take "
            f"{', '.join(action.names)}: select these fields in the source",
            code="gate.shadow_commands_mismatch",
        )
    return command
