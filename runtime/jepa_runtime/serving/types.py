"""Inputs and outputs of the pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import Alarm, Calibration, ErrorSample
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.model.world_model import Futures
from jepa_runtime.serving.history import Reset

STAGES = ("wait", "preprocess", "encode", "predict", "energy", "relative_pose", "surprise", "total")
"""The stages of a frame whose durations are measured."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Action sequences to evaluate.

    Attributes:
        actions: float32 [K, H, A] in SI units.
        source: Name of the component that proposes them.
        stamp_ns: Stamp of the image for which they are proposed.
        delay_ns: Time from the stamp of the image that evaluates them until their first action is sent. The
            futures start when that action takes effect; see
            :mod:`jepa_runtime.serving.latency_compensation`. 0: they start at the image.
    """

    actions: NDArray[np.float32]
    source: str = "candidates"
    stamp_ns: int = 0
    delay_ns: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one frame.

    Attributes:
        stamp_ns: Stamp of the frame.
        frame_id: Frame id of the frame.
        sequence: The frame's number at its source; a step of more than one shows lost frames, or skipped ones
            of a model that reads clips.
        latent: [T, D], read-only: the history holds the same array.
        futures: Predicted futures; None until the history is long enough.
        candidates: The evaluated action sequences; their source is ``fan`` if none were proposed.
        reset: Why the history was reset with this frame, or None.
        surprise: Error of the prediction made one step ago; None if there was none.
        surprising: The surprise exceeds the model's threshold.
        goal_stamp_ns: Stamp of the goal; None without one.
        current_energy: Energy of the frame to the goal; None without one.
        timings_ms: Durations by stage: ``wait`` in the mailbox, ``preprocess``, ``encode``, ``predict``,
            ``energy``, ``relative_pose``; ``total`` from :meth:`Pipeline.submit` until everything but the
            surprise is known; ``surprise``.
        deadline_missed: ``total`` exceeded the deadline.
        stream: Stream of the frame.
        device_ms: Durations of ``encode`` and ``predict`` by the device's own clock, if it has one.
        calibration: Reliability of the futures; None without futures.
        error_sample: Prediction errors over all horizons; None between two steps, until predictions over the
            whole horizon exist, and until they are computed (``on_calibration`` of the pipeline).
        alarms: Alarms that begin or end with this frame; empty until they are computed.
        executed: Mean magnitude [A] of the actions executed in the previous step; None without a prediction.
        response: Proportion of the change predicted of those actions that the frame shows (1: as predicted,
            0: none, negative: the opposite); NaN if the predicted change is within the error bound, and
            without a prediction. Of a model that reads poses and drives a differential drive, the proportion
            of the motion of the last steps that is read; NaN if that is too little to be read.
        discontinuous: The frame is further from the previous one than the prediction and the surprise
            threshold explain.
        compensated_ns: Time from the frame to the start of the futures.
        goal_pose: Pose of the goal in the frame of the image; None without a goal, and if the model reads no
            poses.
    """

    stamp_ns: int
    frame_id: str
    sequence: int
    latent: NDArray[np.float32]
    futures: Futures | None
    candidates: Candidates
    reset: Reset | None
    surprise: float | None
    surprising: bool
    goal_stamp_ns: int | None
    current_energy: float | None
    timings_ms: dict[str, float]
    deadline_missed: bool
    stream: str = ""
    device_ms: dict[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None
    error_sample: ErrorSample | None = None
    alarms: tuple[Alarm, ...] = ()
    executed: NDArray[np.float32] | None = None
    response: float = math.nan
    discontinuous: bool = False
    compensated_ns: int = 0
    goal_pose: RelativePose | None = None


@dataclass(frozen=True)
class Stats:
    """Counters since the start.

    A received frame is processed, is dropped (a newer one arrived), fails, or is skipped.

    Attributes:
        received: Frames received.
        processed: Frames processed.
        dropped: Frames dropped.
        failed: Frames that failed.
        callback_errors: Results whose callback raised.
        late: Results later than the deadline.
        longest_miss_run: Most consecutive deadline misses of one stream.
        resets: Resets of the history, by reason.
        skipped: Frames without a latent because they complete no clip of a model that reads clips; of other
            models none.
    """

    received: int
    processed: int
    dropped: int
    failed: int
    callback_errors: int
    late: int
    longest_miss_run: int
    resets: dict[str, int]
    skipped: int = 0

    @property
    def deadline_misses(self) -> int:
        """Frames without a result before the deadline: late, dropped or failed ones."""
        return self.late + self.dropped + self.failed


class StreamCounters:
    """Counters of one stream. Not thread-safe."""

    def __init__(self) -> None:
        self.failed = 0
        self._processed = self._callback_errors = self._skipped = 0
        self._late = self._dropped = self._miss_run = self._longest_miss_run = 0
        self._resets = {reset.value: 0 for reset in Reset}

    @property
    def finished(self) -> int:
        """Number of frames that were processed, failed, or only filled a cache."""
        return self._processed + self.failed + self._skipped

    def add(self, result: Result, *, delivered: bool, dropped: int) -> None:
        """Count a processed frame.

        Args:
            result: Its result.
            delivered: Whether no callback raised.
            dropped: Frames dropped until it was taken.
        """
        self._count_misses(dropped, missed=result.deadline_missed)
        self._processed += 1
        self._callback_errors += not delivered
        if result.reset is not None:
            self._resets[result.reset.value] += 1
        self._late += result.deadline_missed

    def fail(self, *, dropped: int) -> None:
        """Count a frame that failed, see :meth:`add`."""
        self._count_misses(dropped, missed=True)
        self.failed += 1

    def skip(self, *, dropped: int) -> None:
        """Count a frame that only filled the cache of a causal encoder, see :meth:`add`."""
        self._count_misses(dropped, missed=False)
        self._skipped += 1

    def stats(self, received: int, dropped: int, skipped: int = 0) -> Stats:
        """Return the counters, including those of the mailbox and of the frames skipped before it."""
        return Stats(
            received=received,
            processed=self._processed,
            dropped=dropped,
            failed=self.failed,
            callback_errors=self._callback_errors,
            late=self._late,
            longest_miss_run=max(self._longest_miss_run, self._miss_run + dropped - self._dropped),
            resets=dict(self._resets),
            skipped=skipped + self._skipped,
        )

    def _count_misses(self, dropped: int, *, missed: bool) -> None:
        self._miss_run += dropped - self._dropped + missed
        self._longest_miss_run = max(self._longest_miss_run, self._miss_run)
        self._miss_run = self._miss_run if missed else 0
        self._dropped = dropped


def sum_stats(streams: Iterable[Stats]) -> Stats:
    """Return the counters of several streams together."""
    all_stats = list(streams)
    return Stats(
        received=sum(stats.received for stats in all_stats),
        processed=sum(stats.processed for stats in all_stats),
        dropped=sum(stats.dropped for stats in all_stats),
        failed=sum(stats.failed for stats in all_stats),
        callback_errors=sum(stats.callback_errors for stats in all_stats),
        late=sum(stats.late for stats in all_stats),
        longest_miss_run=max(stats.longest_miss_run for stats in all_stats),
        resets={reset.value: sum(stats.resets[reset.value] for stats in all_stats) for reset in Reset},
        skipped=sum(stats.skipped for stats in all_stats),
    )
