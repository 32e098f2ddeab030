"""Requests to evaluate action sequences in addition to the frames.

Frames have priority. The inference thread works on a request, one run of the predictor at a time, while no
frame waits and none is due before that run would end. Requests have a timeout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, median_low
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.bundle.manifest import POSE_SIZE, check_futures_size
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.frame_processor import FrameProcessor, PredictionContext

_MAX_SEQUENCES = 65536
MAX_SCORED = 4096
# Interval of attempts while frames leave no time for a request.
_RETRY_S = 0.01
# A run may take this much longer than expected.
_MARGIN = 1.25
# A run is expected to take as long as the median of the last ones, whose durations decay with each frame: a
# few slow runs, such as those of a thread that was preempted, do not block all later ones.
_RUNS, _DECAY = 5, 0.95
# Number of last intervals of a stream that determine when its next frame is due.
_INTERVALS = 8


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


Answer = TypeVar("Answer")


class Request(ABC, Generic[Answer]):
    """A request to the inference thread.

    Attributes:
        future: The result.
    """

    def __init__(self) -> None:
        self.future: Future[Answer] = Future()
        self._obstacle = "the frames leave no time for it"

    @property
    @abstractmethod
    def has_started(self) -> bool:
        """Whether a part of the result is known."""

    @property
    @abstractmethod
    def stages(self) -> tuple[str, ...]:
        """The calls of the model in the next run, as in :attr:`WorldModel.timings`."""

    @abstractmethod
    def run(self, processor: FrameProcessor) -> Answer | None:
        """Compute a part of the result; return the result once it is complete."""

    def wait(self, timeout_s: float) -> Answer:
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

    def complete(self, outcome: Answer | Exception) -> None:
        """Set the result or the error, unless the request was canceled."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class EvaluationRequest(Request[Evaluation]):
    """One request and its partial result. All its futures start from one image.

    Args:
        manifest: Manifest of the model.
        actions: Action sequences [K, H', A], for any K.
        stream: Stream of the image.
        latents: Whether latents are requested.

    Raises:
        ValueError: The actions are not such sequences, or their latents would be too large.
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
        super().__init__()
        self._actions, self._stream, self._wants_latents = sequences, stream, latents
        self._processor: FrameProcessor | None = None
        self._context: PredictionContext | None = None
        self._latents: list[NDArray[np.float32]] = []
        self._energies: list[NDArray[np.float32]] = []
        self._done = 0

    @property
    def has_started(self) -> bool:
        """Whether a part of the result is known."""
        return self._done > 0

    @property
    def stages(self) -> tuple[str, ...]:
        return "predict", "energy"

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


@dataclass(frozen=True)
class Scores:
    """Energies of latents to a goal, and poses of the goal.

    Attributes:
        energies: float32 [N].
        stamp_ns: Stamp of the newest image, if its latent is the goal; else 0.
        latent_space: Identity of the latents of the model that computed them.
        poses: The pose of the goal in the frame of each requested latent, as
            :meth:`WorldModel.relative_poses` returns them, float32 [n, 5].
    """

    energies: NDArray[np.float32]
    stamp_ns: int
    latent_space: str
    poses: NDArray[np.float32]


class ScoreRequest(Request[Scores]):
    """A request for the energies of latents to one latent, or to the newest image of a stream.

    Args:
        manifest: Manifest of the model.
        latents: Latents [N, T, D].
        goal: Latent [T, D]; None: that of the newest image.
        stream: Stream of the image.
        pose_indices: Indices of the latents in whose frames the pose of the goal is read [n].

    Raises:
        ValueError: They have another shape, are too many, or are not finite; or an index is out of range.
    """

    def __init__(
        self,
        manifest: Manifest,
        latents: NDArray[np.floating],
        goal: NDArray[np.floating] | None,
        stream: str,
        pose_indices: NDArray[np.integer],
    ) -> None:
        super().__init__()
        self._pose_indices = np.array(pose_indices, np.int64)
        shape = manifest.io.latent.tokens, manifest.io.latent.dim
        self._latents = np.array(latents, np.float32)
        self._goal = None if goal is None else np.array(goal, np.float32)
        self._stream = stream
        given = (self._latents,) if self._goal is None else (self._latents, self._goal)
        if (
            self._latents.shape[1:] != shape
            or not 1 <= len(self._latents) <= MAX_SCORED
            or (self._goal is not None and self._goal.shape != shape)
            or not all(np.isfinite(each).all() for each in given)
        ):
            raise ValueError(
                f"latents must be [1..{MAX_SCORED}, {shape[0]}, {shape[1]}] and the goal "
                f"{list(shape)} finite "
                f"numbers, got {list(self._latents.shape)}"
            )
        count, indices = len(self._latents), self._pose_indices
        if len(indices) > count or ((indices < 0) | (indices >= count)).any():
            raise ValueError(
                f"pose_indices must be at most {count} numbers from 0 to {count - 1}, got {indices.tolist()}"
            )

        self._horizon = manifest.horizon
        self._processor: FrameProcessor | None = None
        self._begin()

    def _begin(self) -> None:
        self._scored: tuple[int, NDArray[np.float32]] | None = None
        self._poses: NDArray[np.float32] | None = None
        self._energies: list[NDArray[np.float32]] = []

    @property
    def has_started(self) -> bool:
        """Whether a part of the result is known."""
        return self._poses is not None or bool(self._energies)

    @property
    def stages(self) -> tuple[str, ...]:
        reads = self._poses is None and len(self._pose_indices) > 0
        return ("relative_pose",) if reads else ("energy",)

    def run(self, processor: FrameProcessor) -> Scores | None:
        """Read the poses, or compute the energies of as many latents as a frame has futures.

        Returns:
            The result once it is complete; None as long as there is no image, too.

        Raises:
            BundleError: Poses are requested, and the model reads none.
            BackendError: A pose is not finite.
        """
        if self._processor is not processor:
            # Results of another model for the first latents are not comparable with the rest.
            self._processor = processor
            self._begin()
        if self._scored is None:
            self._scored = (
                (0, self._goal) if self._goal is not None else processor.newest_latent(self._stream)
            )
        if self._scored is None:
            self._obstacle = "there is no image: are images received?"
            return None
        model, (stamp_ns, goal) = processor.model, self._scored
        if self._poses is None and len(self._pose_indices):
            self._poses = model.relative_poses(self._latents[self._pose_indices], goal)
            return None
        done, block = sum(map(len, self._energies)), model.num_samples * self._horizon
        self._energies.append(model.energy(self._latents[done : done + block], goal))
        if done + block < len(self._latents):
            return None
        poses = np.zeros((0, POSE_SIZE), np.float32) if self._poses is None else self._poses
        return Scores(np.concatenate(self._energies), stamp_ns, model.latent_space, poses)


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
        self._pending: list[Request[Any]] = []
        self._frame_timing = FrameTiming()
        # Durations of the last runs by their stages, and of the model's last calls in these.
        self._run_ns: dict[tuple[str, ...], deque[float]] = {}
        self._call_ms: dict[tuple[str, ...], float] = {}
        self._is_blocked = False
        self._closed_reason = ""

    def submit(self, request: Request[Any]) -> None:
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
        for stages, durations in self._run_ns.items():
            self._run_ns[stages] = deque((_DECAY * each for each in durations), maxlen=_RUNS)
        self._is_blocked = False

    def frame_timeout_s(self) -> float | None:
        """Return how long to wait for a frame before :meth:`run_next`; None: until one arrives."""
        with self._lock:
            if not self._without_canceled():
                return None
        return _RETRY_S if self._is_blocked else 0.0

    def run_next(self, processor: FrameProcessor) -> None:
        """Continue the oldest request that would end before a frame is due."""
        with self._lock:
            pending = self._without_canceled()
        if not pending:
            return
        began_ns = self._clock_ns()
        request = next((each for each in pending if self._has_time(each, processor, began_ns)), None)
        self._is_blocked = request is None
        if request is None:
            return
        outcome: Any
        stages = request.stages
        try:
            outcome = request.run(processor)
        except Exception as error:
            outcome = error
        if request.has_started or outcome is not None:
            self._run_ns[stages].append(self._clock_ns() - began_ns)
            self._call_ms[stages] = _call_ms(processor, stages)
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

    def _has_time(self, request: Request[Any], processor: FrameProcessor, now_ns: int) -> bool:
        stages = request.stages
        call_ms = _call_ms(processor, stages)
        if call_ms != self._call_ms.get(stages):
            # The model was called meanwhile.
            self._call_ms[stages] = call_ms
            self._run_ns.setdefault(stages, deque(maxlen=_RUNS)).append(1e6 * call_ms)
        due_ns = self._frame_timing.next_due_ns(now_ns)
        return due_ns is None or now_ns + _MARGIN * median(self._run_ns[stages]) <= due_ns

    def _without_canceled(self) -> list[Request[Any]]:
        self._pending = [request for request in self._pending if not request.future.cancelled()]
        return self._pending


def _call_ms(processor: FrameProcessor, stages: tuple[str, ...]) -> float:
    """Return the duration of the model's last calls in ``stages``."""
    return sum(processor.model.timings[stage] for stage in stages)


class FrameTiming:
    """Predicts when frames are due.

    The frames of a stream are expected at regular times, but can be late. The next one is due when it would
    arrive at the earliest: with the shortest delay of the last frames. If frames are missing, the shortest of
    the last intervals passes at least. A stream that is two periods late is not expected any more.
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
            if len(arrivals) < 2:
                continue
            intervals = [after - before for before, after in pairwise(arrivals)]
            period = median_low(intervals)
            if now_ns <= arrivals[-1] + 2 * period:
                regular = min(arrived + ahead * period for ahead, arrived in enumerate(reversed(arrivals), 1))
                due_times.append(max(regular, arrivals[-1] + min(intervals)))
        return min(due_times, default=None)
