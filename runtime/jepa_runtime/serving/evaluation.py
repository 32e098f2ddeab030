"""Requests to evaluate action sequences in addition to the frames.

Frames have priority. The inference thread works on a request, one run of the predictor at a time, while no
frame waits and none is due before that run would end. Requests have a timeout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.bundle.manifest import check_futures_size
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.frame_processor import FrameProcessor, PredictionContext

_MAX_SEQUENCES = 65536
# Interval of attempts while frames leave no time for a request.
_RETRY_S = 0.01
# A run may take this much longer than the last one.
_MARGIN = 1.25
# Decay per frame of the duration of the last run, so that one slow run does not block all later ones.
_DECAY = 0.95
# Number of last frames of a stream that determine its period.
_INTERVALS = 4


@dataclass(frozen=True)
class Evaluation:
    """Futures of K action sequences of H steps.

    Attributes:
        stamp_ns: Stamp of the image from which the futures start.
        latents: float32 [K, H, T, D]; None if they were not requested.
        energies: Energies to the goal, float32 [K, H]; None without a goal.
        current_energy: Energy of the image to the goal; None without a goal.
        goal_stamp_ns: Stamp of the goal; None without a goal.
        error_bounds: float32 [H].
    """

    stamp_ns: int
    latents: NDArray[np.float32] | None
    energies: NDArray[np.float32] | None
    current_energy: float | None
    goal_stamp_ns: int | None
    error_bounds: NDArray[np.float32]


class EvaluationRequest:
    """One request and its partial result. All its futures start from one image.

    Args:
        manifest: Manifest of the model.
        actions: Action sequences [K, H', A], for any K.
        stream: Stream of the image.
        latents: Whether latents are requested.

    Raises:
        ValueError: The actions are not such sequences, or their latents would be too large.

    Attributes:
        future: The result.
    """

    def __init__(
        self, manifest: Manifest, actions: NDArray[np.floating], stream: str, *, latents: bool
    ) -> None:
        sequences = np.array(actions, np.float32)
        horizon, size, limit = manifest.horizon, manifest.action_size, manifest.io.action.max_plausible
        fits = sequences.ndim == 3 and 1 <= sequences.shape[1] <= horizon and sequences.shape[2] == size
        if not fits or not 1 <= len(sequences) <= _MAX_SEQUENCES or not (np.abs(sequences) <= limit).all():
            raise ValueError(
                f"actions must be [1..{_MAX_SEQUENCES}, 1..{horizon}, {size}] finite numbers of at most "
                f"{limit:g}, got {list(sequences.shape)}"
            )
        if latents:
            check_futures_size(manifest, len(sequences))
        self.future: Future[Evaluation] = Future()
        self._actions, self._stream, self._wants_latents = sequences, stream, latents
        self._obstacle = "the frames leave no time for it"
        self._processor: FrameProcessor | None = None
        self._context: PredictionContext | None = None
        self._latents: list[NDArray[np.float32]] = []
        self._energies: list[NDArray[np.float32]] = []
        self._done = 0

    @property
    def has_started(self) -> bool:
        """Whether a part of the result is known."""
        return self._done > 0

    def run(self, processor: FrameProcessor) -> Evaluation | None:
        """Predict as many sequences as the model can in one run; return the result once it is complete.

        Raises:
            JepaRuntimeError: There is no goal and no latents are requested, or the model's outputs are not
                finite.
        """
        if self._processor is not processor:
            # Results of another model for the first sequences are not comparable with the rest.
            self._processor, self._context = processor, None
            self._latents, self._energies, self._done = [], [], 0
        self._context = context = self._context or processor.prediction_context(self._stream)
        if context is None:
            self._obstacle = (
                "there is no history from which futures could start: are images received, and the executed "
                "actions known?"
            )
            return None
        if context.goal is None and not self._wants_latents:
            raise JepaRuntimeError(
                "no goal, hence no energies: set a goal, or request latents", code="evaluation.no_goal"
            )
        model = processor.model
        sequences = self._actions[self._done : self._done + model.num_samples]
        futures = processor.predict(sequences, context.context, context.goal)
        self._done += model.num_samples
        if self._wants_latents:
            self._latents.append(futures.latents)
        if futures.energies is not None:
            self._energies.append(futures.energies)
        if self._done < len(self._actions):
            return None
        current_energy = None
        if context.goal is not None:
            current_energy = float(model.energy(context.context.latents[-1], context.goal))
        return Evaluation(
            stamp_ns=context.context.stamp_ns,
            latents=np.concatenate(self._latents) if self._wants_latents else None,
            energies=np.concatenate(self._energies) if self._energies else None,
            current_energy=current_energy,
            goal_stamp_ns=context.goal_stamp_ns,
            error_bounds=context.error_bounds[: self._actions.shape[1]],
        )

    def wait(self, timeout_s: float) -> Evaluation:
        """Wait for the result.

        Raises:
            JepaRuntimeError: It is not complete in time; or see :meth:`run`.
            Exception: Any error of the model.
        """
        try:
            return self.future.result(timeout_s)
        except FutureTimeoutError:
            if self.future.cancel():
                raise JepaRuntimeError(
                    f"not evaluated within {timeout_s:g} s: {self._obstacle}", code="evaluation.timeout"
                ) from None
            return self.future.result()

    def complete(self, outcome: Evaluation | Exception) -> None:
        """Set the result or the error, unless the request was canceled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class EvaluationQueue:
    """Pending requests, oldest first. Any thread submits; the inference thread runs them.

    Args:
        clock_ns: Monotonic clock, the same as that of :meth:`add_frame`.
        limit: Maximum number of pending requests.
    """

    def __init__(self, clock_ns: Callable[[], int], *, limit: int = 8) -> None:
        self._clock_ns = clock_ns
        self._limit = limit
        self._lock = Lock()
        self._pending: list[EvaluationRequest] = []
        self._frame_timing = FrameTiming()
        self._run_ns = 0.0
        self._is_blocked = False
        self._closed_reason = ""

    def submit(self, request: EvaluationRequest) -> None:
        """Add a request.

        Raises:
            JepaRuntimeError: Too many requests are pending, or the queue is closed.
        """
        with self._lock:
            if self._closed_reason:
                raise JepaRuntimeError(self._closed_reason, code="pipeline.stopped")
            if len(self._without_canceled()) >= self._limit:
                raise JepaRuntimeError(
                    f"{self._limit} evaluations are already pending: try again later",
                    code="evaluation.too_many_pending",
                )
            self._pending.append(request)

    def add_frame(self, stream: str, arrived_ns: int) -> None:
        """Note the arrival of the frame of ``stream`` that is processed now."""
        self._frame_timing.add(stream, arrived_ns)
        self._run_ns *= _DECAY
        self._is_blocked = False

    def frame_timeout_s(self) -> float | None:
        """Return how long to wait for a frame before :meth:`run_next`; None: until one arrives."""
        with self._lock:
            if not self._without_canceled():
                return None
        return _RETRY_S if self._is_blocked else 0.0

    def run_next(self, processor: FrameProcessor) -> None:
        """Continue the oldest request, unless a frame is due before that would end."""
        with self._lock:
            pending = self._without_canceled()
        if not pending:
            return
        request, began_ns = pending[0], self._clock_ns()
        self._is_blocked = not self._has_time(processor, began_ns)
        if self._is_blocked:
            return
        outcome: Evaluation | Exception | None
        try:
            outcome = request.run(processor)
        except Exception as error:
            outcome = error
        if request.has_started:
            self._run_ns = self._clock_ns() - began_ns
        self._is_blocked = outcome is None and not request.has_started
        with self._lock:
            # False if the queue was closed meanwhile.
            is_pending = any(each is request for each in self._pending)
            if self._is_blocked:
                # Other requests may be about a stream with a longer history.
                self._pending.sort(key=lambda each: each is request)
            elif outcome is not None:
                self._pending = [each for each in self._pending if each is not request]
        if outcome is not None and is_pending:
            request.complete(outcome)

    def close(self, reason: str) -> None:
        """Reject all pending and future requests."""
        with self._lock:
            self._closed_reason = reason
            pending, self._pending = self._pending, []
        for request in pending:
            request.complete(JepaRuntimeError(reason, code="pipeline.stopped"))

    def _has_time(self, processor: FrameProcessor, now_ns: int) -> bool:
        timings = processor.model.timings
        run_ns = max(self._run_ns, 1e6 * (timings["predict"] + timings["energy"]))
        due_ns = self._frame_timing.next_due_ns(now_ns)
        return due_ns is None or now_ns + _MARGIN * run_ns <= due_ns

    def _without_canceled(self) -> list[EvaluationRequest]:
        self._pending = [request for request in self._pending if not request.future.cancelled()]
        return self._pending


class FrameTiming:
    """Predicts when frames are due.

    The period of a stream is the shortest interval of its last frames. A stream that is two periods late is
    not expected any more.
    """

    def __init__(self) -> None:
        self._arrivals: dict[str, deque[int]] = {}

    def add(self, stream: str, arrived_ns: int) -> None:
        """Add the arrival of a frame of ``stream``."""
        self._arrivals.setdefault(stream, deque(maxlen=_INTERVALS + 1)).append(arrived_ns)

    def next_due_ns(self, now_ns: int) -> int | None:
        """Return when the next frame of any stream is due, which may be past; None: none is expected."""
        due_times = []
        for arrivals in self._arrivals.values():
            period = min((after - before for before, after in pairwise(arrivals)), default=None)
            if period is not None and now_ns <= arrivals[-1] + 2 * period:
                due_times.append(arrivals[-1] + period)
        return min(due_times, default=None)
