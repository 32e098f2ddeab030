"""What goes into and comes out of the pipeline, as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.history import Reset
from jepa_runtime.world_model import Futures

STAGES = ("wait", "preprocess", "encode", "predict", "energy", "surprise", "total")


@dataclass(frozen=True)
class Candidates:
    """Action sequences to follow: ``actions`` [K, H, A] (SI units), who proposes them, and for which image's
    stamp.
    """

    actions: NDArray[np.float32]
    source: str = "candidates"
    stamp_ns: int = 0


@dataclass(frozen=True)
class Result:
    """What came out of one frame.

    Attributes:
        stamp_ns, frame_id: the frame's own.
        sequence: the frame's number at its source; a step of more than one shows frames lost on the way.
        latent: [T, D].
        futures: None while the history is not long enough to predict from.
        candidates: what was followed; its source is ``fan`` when nobody proposed any.
        reset: why the history started anew with this frame, or None.
        surprise: error of the prediction made one step ago; None where there was none.
        surprising: the surprise exceeds the model's threshold.
        goal_stamp_ns, current_energy: of the goal sought, or None without one.
        timings_ms: by stage: ``wait`` in the mailbox, ``preprocess``, ``encode``, ``predict``, ``energy``,
            ``surprise``, and ``total`` from :meth:`Pipeline.submit` to here.
        deadline_missed: ``total`` exceeded the deadline.
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


@dataclass(frozen=True)
class Stats:
    """Counters since the start. A frame received is processed, dropped (a newer one came) or fails."""

    received: int
    processed: int
    dropped: int
    failed: int
    callback_errors: int
    deadline_misses: int
    longest_miss_run: int
    resets: dict[str, int]
