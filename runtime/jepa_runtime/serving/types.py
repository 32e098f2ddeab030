"""What goes into and comes out of the pipeline, as data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import Alarm, Calibration, ErrorSample
from jepa_runtime.model.world_model import Futures
from jepa_runtime.serving.history import Reset

STAGES = ("wait", "preprocess", "encode", "predict", "energy", "surprise", "total")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Action sequences to follow: ``actions`` [K, H, A] (SI units), who proposes them, and for which image's
    stamp.
    """

    actions: NDArray[np.float32]
    source: str = "candidates"
    stamp_ns: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of one frame.

    Attributes:
        stamp_ns, frame_id: the frame's own.
        sequence: the frame's number at its source; a step of more than one shows frames lost on the way.
        latent: [T, D], read-only: the history holds the same array.
        futures: None while the history is not long enough to predict from.
        candidates: what was followed; its source is ``fan`` when nobody proposed any.
        reset: why the history started anew with this frame, or None.
        surprise: error of the prediction made one step ago; None where there was none.
        surprising: the surprise exceeds the model's threshold.
        executed: [A], mean magnitude of the components of the actions executed in the step before; None where
            there was no prediction.
        response: of the change that the model predicts of those actions, the proportion that the frame shows
            (1: as predicted, 0: none, negative: the opposite); NaN where the model predicts no change beyond
            its error bound, and without a prediction.
        discontinuous: the frame is further from the frame before than the prediction and the threshold of
            surprise explain.
        goal_stamp_ns, current_energy: of the goal sought, or None without one.
        timings_ms: by stage: ``wait`` in the mailbox, ``preprocess``, ``encode``, ``predict``, ``energy``;
            ``total`` from :meth:`Pipeline.submit` until all but the surprise was there; ``surprise``.
        deadline_missed: ``total`` exceeded the deadline.
        stream: which of the pipeline's streams the frame came from.
        device_ms: of ``encode`` and ``predict`` what the device's own clock says, where it has one.
        calibration: how far the futures can be trusted; None without futures.
        judged: how wrong what was foreseen was, over all horizons; None between two steps, while nothing was
            foreseen over the whole horizon, and until that is computed (``on_calibration`` of the pipeline).
        alarms: those that begin or end with this frame; none until then.
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


@dataclass(frozen=True)
class Stats:
    """Counters since the start. A frame received is processed, dropped (a newer one came) or fails.

    ``longest_miss_run`` is that of one stream.
    """

    received: int
    processed: int
    dropped: int
    failed: int
    callback_errors: int
    deadline_misses: int
    longest_miss_run: int
    resets: dict[str, int]


class Tally:
    """Counts what becomes of the frames of one stream. It holds no lock."""

    def __init__(self) -> None:
        self.failed = 0
        self._processed = self._callback_errors = 0
        self._misses = self._miss_run = self._longest_miss_run = 0
        self._resets = {reset.value: 0 for reset in Reset}

    @property
    def finished(self) -> int:
        """How many frames were processed or failed."""
        return self._processed + self.failed

    def add(self, result: Result, *, delivered: bool) -> None:
        """A frame was processed, and its result ``delivered`` unless the callback raised."""
        self._processed += 1
        self._callback_errors += not delivered
        if result.reset is not None:
            self._resets[result.reset.value] += 1
        self._misses += result.deadline_missed
        self._miss_run = self._miss_run + 1 if result.deadline_missed else 0
        self._longest_miss_run = max(self._longest_miss_run, self._miss_run)

    def stats(self, received: int, dropped: int) -> Stats:
        """The counters now, with those of the mailbox."""
        return Stats(
            received=received,
            processed=self._processed,
            dropped=dropped,
            failed=self.failed,
            callback_errors=self._callback_errors,
            deadline_misses=self._misses,
            longest_miss_run=self._longest_miss_run,
            resets=dict(self._resets),
        )


def total(streams: Iterable[Stats]) -> Stats:
    """The counters of several streams as one."""
    each = list(streams)
    return Stats(
        received=sum(stats.received for stats in each),
        processed=sum(stats.processed for stats in each),
        dropped=sum(stats.dropped for stats in each),
        failed=sum(stats.failed for stats in each),
        callback_errors=sum(stats.callback_errors for stats in each),
        deadline_misses=sum(stats.deadline_misses for stats in each),
        longest_miss_run=max(stats.longest_miss_run for stats in each),
        resets={reset.value: sum(stats.resets[reset.value] for stats in each) for reset in Reset},
    )
